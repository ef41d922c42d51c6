"""The policy itself as a function, for whoever wants to run it beside its artifacts."""

from __future__ import annotations

from typing import Any

from policyctl_exporters.source import Answer, Options
from policyctl_exporters.sources import open_source
from policyctl_exporters.spaces import FeatureNames


def load_reference(
    source: Any,
    *,
    observation_space: Any = None,
    action_space: Any = None,
    normalizer: Any = None,
    trust_pickle: bool = False,
    head: str | None = None,
    feature_names: FeatureNames = None,
) -> Answer:
    """The policy as a function from raw observations to its outputs, in eager PyTorch.

    Args:
        source: As for `export_policy`; likewise the other arguments.
        observation_space: Gymnasium space; for torch modules.
        action_space: Gymnasium space; for torch modules.
        normalizer: A `VecNormalize`, or the path of a saved one.
        trust_pickle: Whether files that hold pickles may be read.
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
        trust_pickle=trust_pickle,
        head=head,
        feature_names=feature_names,
    )
    return open_source(source, options).reference
