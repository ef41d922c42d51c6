"""The policy itself as a function, to run it next to its artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from policyctl_exporters.head_option import Head, HeadOption
from policyctl_exporters.source import Answer, Options
from policyctl_exporters.sources import open_source
from policyctl_exporters.spaces import FeatureNames


def load_reference(
    source: Any,
    *,
    observation_space: Any = None,
    action_space: Any = None,
    normalizer: Any = None,
    despite_archive: bool = False,
    images: str | None = None,
    trust_pickle: bool = False,
    code: str | Path | None = None,
    trust_operators: bool = False,
    head: HeadOption = None,
    feature_names: FeatureNames = None,
) -> Answer:
    """The policy as a function from raw observations to its outputs, in eager PyTorch.

    Args:
        source: As for `export_policy`; likewise the other arguments.
        observation_space: Gymnasium space; for torch modules.
        action_space: Gymnasium space; for torch modules.
        normalizer: A `VecNormalize`, the path of a saved one, or False for none.
        despite_archive: Do as `normalizer` says where training kept proof of the contrary.
        images: How the environment gives images to a Stable-Baselines3 policy, ``channels-first`` or
            ``channels-last``. None for what a live algorithm's environment, or `observation_space`,
            has, and for ``channels-last`` where nobody knows: ``predict()`` takes both.
        trust_pickle: Whether files that hold pickles may be read.
        code: A Python file, or a folder of modules, that defines an archive's own classes.
        trust_operators: Whether TorchScript may do more than compute.
        head: What a module's single tensor is.
        feature_names: Not needed to answer.

    Returns:
        From raw observations by tensor name, each of shape (n, *shape), to
        outputs by name, `action` among them.

    Raises:
        UsageError: The source cannot be read as it is.
        UnsupportedError: It is of a kind that cannot be exported.
    """
    options = Options(
        observation_space=observation_space,
        action_space=action_space,
        normalizer=normalizer,
        despite_archive=despite_archive,
        images=images,
        trust_pickle=trust_pickle,
        code=None if code is None else Path(code),
        trust_operators=trust_operators,
        head=Head.of(head),
        feature_names=feature_names,
    )
    return open_source(source, options).reference
