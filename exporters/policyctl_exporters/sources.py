"""Whatever a policy comes as, turned into one thing: a `Source`.

A source knows its contract, answers like the policy (the reference that every
artifact is held against), and has a graph to export, or for an ONNX file the
file itself.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policyctl.domain.manifest import digest_of
from policyctl.errors import UnsupportedError, UsageError
from policyctl.foreign_code import callable_named, names_callable
from policyctl_exporters.independence import settled
from policyctl_exporters.normalizer import read_normalizer
from policyctl_exporters.plain_files import open_plain
from policyctl_exporters.source import Options, Source
from policyctl_exporters.spaces import observations_of, scales_of

if TYPE_CHECKING:
    from torch import nn

_MOST_BYTES = 4 << 30


def open_source(source: Any, options: Options) -> Source:
    """Read a policy from whatever it comes as.

    Args:
        source: A Stable-Baselines3 algorithm or policy, a `torch.nn.Module`, the
            path of an archive (.zip), of TorchScript (.pt, .ts) or of ONNX
            (.onnx), or ``package.module:callable`` or ``FILE.py:callable``.
        options: See `export_policy`.

    Raises:
        UsageError: It cannot be read as it is.
        UnsupportedError: It is of a kind that cannot be exported.
    """
    policy = _open(source, options)
    return policy if policy.graph is None else settled(policy)


def _open(source: Any, options: Options) -> Source:
    if isinstance(source, str) and names_callable(source):
        source = load_callable(source)
    if isinstance(source, str | Path):
        return _open_file(Path(source), options)
    from torch import nn

    if is_sb3(source):
        from policyctl_exporters.sb3_source import open_live

        return open_live(source, options)
    if isinstance(source, nn.Module):
        from policyctl_exporters.conduct import owned

        module, notes = owned(source, trusted=options.trust_operators)
        return _from_module(module, options, kind="module", notes=notes)
    raise UsageError(
        f"a policy of type {type(source).__name__} cannot be exported",
        remedy="Pass a Stable-Baselines3 algorithm or archive, a torch.nn.Module, a .pt or an .onnx file.",
    )


def is_sb3(source: Any) -> bool:
    """Whether it is a live Stable-Baselines3 algorithm or policy."""
    from torch import nn

    algorithm = isinstance(getattr(source, "policy", None), nn.Module) and hasattr(source, "policy_kwargs")
    return algorithm or (
        isinstance(source, nn.Module) and hasattr(source, "predict") and hasattr(source, "observation_space")
    )


def load_callable(name: str) -> Any:
    """Import what ``package.module:callable`` or ``FILE.py:callable`` names and call it without arguments.

    Returns:
        What it returned: a module, an algorithm or a policy.

    Raises:
        UsageError: It cannot be imported, or is not callable.
    """
    function = callable_named(name)
    try:
        made = function()
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
            from policyctl_exporters.sb3_source import open_archived

            return open_archived(path, options)
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
    from policyctl_exporters.conduct import checked

    with open_plain(path, most_bytes=_MOST_BYTES) as file:
        content = file.read()
    program = checked(content, name=path.name, trusted=options.trust_operators)
    source = _from_module(program.module.eval(), options, kind="torchscript", notes=program.notes)
    return replace(source, file=(path.name, digest_of(content)))


def _from_module(module: nn.Module, options: Options, *, kind: str, notes: tuple[str, ...] = ()) -> Source:
    from policyctl_exporters.eager import EagerGraph
    from policyctl_exporters.modules import build_module_graph, name_of

    spaces = {"observes": options.observation_space, "does": options.action_space}
    if missing := [verb for verb, space in spaces.items() if space is None]:
        raise UsageError(
            f"a torch module does not say what it {' and '.join(missing)}",
            remedy="Say it: --observation 12 --action 4:-1..1 (see --help), --spaces FILE or --env ID; in Python"
            " observation_space= and action_space=.",
        )
    normalizer, normalizer_file = read_normalizer(options.normalizer, trust_pickle=options.trust_pickle)
    observations = observations_of(
        options.observation_space, normalizer=normalizer, feature_names=options.feature_names
    )
    scales = scales_of(observations, normalizer)
    built = build_module_graph(
        module, observations, options.action_space, normalizer=normalizer, scales=scales, head=options.head
    )
    return Source(
        kind=kind,
        algorithm=name_of(module),
        contract=built.contract,
        reference=EagerGraph(built.eager, built.contract),
        graph=built.graph,
        scales=scales,
        clip_obs=normalizer.clip_obs if normalizer else None,
        normalizer_file=normalizer_file,
        trust_operators=options.trust_operators,
        notes=(*notes, *built.notes),
    )


def _require(module: str, extra: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise UnsupportedError(f"{module} is not installed", remedy=f"pip install 'policyctl[{extra}]'") from error
