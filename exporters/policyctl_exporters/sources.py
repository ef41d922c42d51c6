"""Whatever a policy comes as, turned into one thing: a `Source`.

A source knows its contract, answers like the policy (the reference that every
artifact is held against), and has a graph to export, or for an ONNX file the
file itself.
"""

from __future__ import annotations

import copy
import importlib
import re
import sys
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.manifest import digest_of
from policyctl.errors import UnsupportedError, UsageError
from policyctl_exporters.normalizer import Normalizer, read_normalizer
from policyctl_exporters.source import Options, Source
from policyctl_exporters.spaces import observations_of
from policyctl_exporters.training import of_live

if TYPE_CHECKING:
    from torch import nn

    from policyctl_exporters.sb3_archive import Trained

_CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def open_source(source: Any, options: Options) -> Source:
    """Read a policy from whatever it comes as.

    Args:
        source: A Stable-Baselines3 algorithm or policy, a `torch.nn.Module`, the
            path of an archive (.zip), of TorchScript (.pt, .ts) or of ONNX
            (.onnx), or ``package.module:callable``.
        options: See `export_policy`.

    Raises:
        UsageError: It cannot be read as it is.
        UnsupportedError: It is of a kind that cannot be exported.
    """
    if isinstance(source, str) and _CALLABLE.fullmatch(source) and not Path(source).exists():
        source = load_callable(source)
    if isinstance(source, str | Path):
        return _open_file(Path(source), options)
    from torch import nn

    policy = getattr(source, "policy", None)
    if isinstance(policy, nn.Module) and hasattr(source, "policy_kwargs"):
        if options.normalizer is None and hasattr(source, "get_vec_normalize_env"):
            options = _with_normalizer(options, source.get_vec_normalize_env())
        told = of_live(source)
        return _from_sb3(replace(_detach_policy(policy, type(source).__name__), training=told), options)
    if isinstance(source, nn.Module):
        if hasattr(source, "predict") and hasattr(source, "observation_space"):
            return _from_sb3(_detach_policy(source, type(source).__name__), options)
        return _from_module(source, options, kind="module")
    raise UsageError(
        f"a policy of type {type(source).__name__} cannot be exported",
        remedy="Pass a Stable-Baselines3 algorithm or archive, a torch.nn.Module, a .pt or an .onnx file.",
    )


def load_callable(name: str) -> Any:
    """Import ``package.module:callable`` and call it without arguments.

    The current folder is importable meanwhile, as with ``python -m``.

    Returns:
        What it returned: a module, an algorithm or a policy.

    Raises:
        UsageError: It cannot be imported, or is not callable.
    """
    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"{name}: cannot be imported ({error})",
            remedy="Give package.module:callable, importable from the current folder or the environment.",
        ) from error
    finally:
        sys.path.remove(here)
    if not callable(found):
        raise UsageError(f"{name} is {type(found).__name__}, which cannot be called")
    try:
        made = found()
    # Whatever the user's own code raises.
    except Exception as error:
        raise UsageError(
            f"{name} raised {type(error).__name__}: {error}", remedy="It is called without arguments."
        ) from error
    if isinstance(made, str | Path):
        raise UsageError(f"{name} returned {type(made).__name__}, expected a torch module or a policy")
    return made


def _open_file(path: Path, options: Options) -> Source:
    if not path.is_file():
        raise UsageError(f"{path}: no such file", remedy="Give the path of a trained policy.")
    match path.suffix.lower():
        case ".zip":
            _require("stable_baselines3", "sb3")
            from policyctl_exporters.sb3_archive import read_archive

            return _from_sb3(read_archive(path, trust_pickle=options.trust_pickle), options)
        case ".pt" | ".ts" | ".pth":
            return _open_torchscript(path, options)
        case ".onnx":
            from policyctl_exporters.onnx_source import open_onnx

            return open_onnx(path, options)
    raise UsageError(
        f"{path.name}: a file of kind {path.suffix or 'unknown'!r} is not read",
        remedy="Give a Stable-Baselines3 archive (.zip), TorchScript (.pt, .ts) or ONNX (.onnx).",
    )


def _open_torchscript(path: Path, options: Options) -> Source:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise UsageError(
            f"{path.name} is not TorchScript: {str(error).splitlines()[0]}",
            remedy="Save it with torch.jit.save; for a state dict, give package.module:callable"
            " that builds the module and loads it.",
        ) from error
    return _from_module(module, options, kind="torchscript", file=(path.name, digest_of(path.read_bytes())))


def _from_sb3(trained: Trained, options: Options) -> Source:
    from policyctl_exporters.eager import EagerGraph, Sb3Reference
    from policyctl_exporters.sb3_graph import build_graph

    normalizer, normalizer_file = read_normalizer(options.normalizer, trust_pickle=options.trust_pickle)
    if trained.normalized and options.normalizer is None:
        raise UsageError(
            "this policy was trained behind a VecNormalize, and without its statistics every action would be wrong",
            remedy="Name the file that VecNormalize.save() wrote (--normalizer FILE, normalizer=FILE), or say that"
            " only rewards were normalised (--no-normalizer, normalizer=False).",
        )
    policy = trained.policy
    _require_own_spaces(policy, options)
    space = options.observation_space or policy.observation_space
    observations = observations_of(space, normalizer=normalizer, feature_names=options.feature_names)
    graph, contract = build_graph(policy, observations, normalizer)
    eager = EagerGraph(graph, contract)
    return Source(
        kind="sb3",
        algorithm=trained.algorithm,
        contract=contract,
        reference=Sb3Reference(policy, observations, normalizer, eager),
        graph=graph,
        scales=_scales(observations, normalizer),
        clip_obs=normalizer.clip_obs if normalizer else None,
        file=trained.file,
        normalizer_file=normalizer_file,
        training=trained.training,
    )


def _require_own_spaces(policy: Any, options: Options) -> None:
    """A Stable-Baselines3 policy knows its spaces and its head; whoever says otherwise errs."""
    if options.head is not None:
        raise UsageError(
            f"head {options.head!r} is for torch modules; a Stable-Baselines3 policy has its own",
            remedy="Leave it out.",
        )
    for which in ("observation_space", "action_space"):
        said, own = getattr(options, which), getattr(policy, which)
        if said is not None and _shapes(said) != _shapes(own):
            raise UsageError(
                f"the policy's {which.replace('_', ' ')} is {own}, the environment's is {said}",
                remedy="Leave the environment out: the policy knows its own spaces.",
            )


def _shapes(space: Any) -> Any:
    """What two spaces must have in common to be taken for the same: kind, shape and choices."""
    inner = getattr(space, "spaces", None)
    if isinstance(inner, Mapping):
        return {key: _shapes(value) for key, value in inner.items()}
    return type(space).__name__, getattr(space, "shape", None), str(getattr(space, "n", getattr(space, "nvec", "")))


def _from_module(module: nn.Module, options: Options, *, kind: str, file: tuple[str, str] | None = None) -> Source:
    from policyctl_exporters.eager import EagerGraph
    from policyctl_exporters.modules import build_module_graph

    if options.observation_space is None or options.action_space is None:
        raise UsageError(
            "a torch module does not say what it observes and does",
            remedy="Pass observation_space= and action_space= (gymnasium spaces).",
        )
    normalizer, normalizer_file = read_normalizer(options.normalizer, trust_pickle=options.trust_pickle)
    observations = observations_of(
        options.observation_space, normalizer=normalizer, feature_names=options.feature_names
    )
    if kind == "module":
        try:
            module = copy.deepcopy(module)
        except (RuntimeError, TypeError) as error:
            raise UnsupportedError(
                f"{type(module).__name__} cannot be copied ({error})",
                remedy="Build a fresh module and load its state dict, and export that.",
            ) from error
    module = module.to("cpu").eval()
    graph, contract = build_module_graph(
        module, observations, options.action_space, normalizer=normalizer, head=options.head
    )
    return Source(
        kind=kind,
        algorithm=getattr(module, "original_name", type(module).__name__),
        contract=contract,
        reference=EagerGraph(graph, contract),
        graph=graph,
        scales=_scales(observations, normalizer),
        clip_obs=normalizer.clip_obs if normalizer else None,
        file=file,
        normalizer_file=normalizer_file,
    )


def _detach_policy(policy: Any, algorithm: str) -> Trained:
    """A copy of a live policy, on the CPU, that leaves the training one alone."""
    from policyctl_exporters.sb3_archive import Trained

    memo: dict[int, Any] = {}
    for module in policy.modules():
        law = getattr(module, "action_dist", None)
        if law is not None:
            # Its sampled noise hangs on the autograd graph, which cannot be copied.
            memo[id(law)] = copy.copy(law)
        optimizer = getattr(module, "optimizer", None)
        if optimizer is not None:
            memo[id(optimizer)] = None
    duplicate = copy.deepcopy(policy, memo).to("cpu")
    duplicate.set_training_mode(False)
    return Trained(policy=duplicate, algorithm=algorithm)


def _with_normalizer(options: Options, found: Any) -> Options:
    return replace(options, normalizer=found)


def _scales(
    observations: Any, normalizer: Normalizer | None
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] | None:
    if normalizer is None:
        return None
    return {
        obs.spec.name: (normalizer.statistics[obs.key].mean, normalizer.std(obs.key))
        for obs in observations
        if obs.key in normalizer.statistics
    }


def _require(module: str, extra: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise UnsupportedError(f"{module} is not installed", remedy=f"pip install 'policyctl[{extra}]'") from error
