"""Whatever a policy comes as, turned into one thing: a `Source`.

A source knows its contract, answers like the policy (the reference that every
artifact is held against), and has a graph to export, or for an ONNX file the
file itself.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from policyctl.domain.artifacts import SOURCE_FILES, SOURCES
from policyctl.domain.manifest import digest_of
from policyctl.domain.parity import compare
from policyctl.errors import UnsupportedError, UsageError
from policyctl.foreign_code import callable_named, names_callable
from policyctl.plain_files import open_named
from policyctl_exporters import parity
from policyctl_exporters.observations import Batch, answered, edges, few, in_batches, join, take, wide
from policyctl_exporters.source import Answer, Options, Source

_MOST_BYTES: Final = 4 << 30
_ROWS: Final = 16
_WHY: Final = "it branches on values, fails on several rows, or a row changes the answer to another"


def load_reference(source: Any, **options: Any) -> Answer:
    """The policy as a function from raw observations to its outputs, in eager PyTorch.

    Args:
        source: As for `export_policy`.
        options: What `export_policy` takes to read a policy: observation_space, action_space, normalizer,
            despite_archive, images, trust_pickle, code, trust_operators, head, states, runner and feature_names.

    Returns:
        From raw observations by tensor name, each of shape (n, *shape), to
        outputs by name, `action` among them. A policy with memory takes what it
        remembers too, and gives what continues that: see `Contract.states`.

    Raises:
        UsageError: The source cannot be read as it is.
        UnsupportedError: It is of a kind that cannot be exported.
    """
    return open_source(source, Options.of(**options)).reference


def open_source(source: Any, options: Options) -> Source:
    """Read a policy from whatever `export_policy` takes as its source.

    Raises:
        UsageError: It cannot be read as it is.
        UnsupportedError: It is of a kind that cannot be exported.
    """
    if options.states and not _names_tensors(source):
        raise _no_states(Path(source).name if isinstance(source, str | Path) else type(source).__name__)
    policy = _open(source, options)
    if options.runner is not None and policy.kind != "rsl_rl":
        raise UsageError(
            f"--runner names the configuration of an rsl_rl checkpoint, and the source is {policy.algorithm}",
            remedy="Leave it out, or give the checkpoint: model_1500.pt.",
        )
    return policy if policy.graph is None else _settled(policy)


def _names_tensors(source: Any) -> bool:
    """Whether it may be of a kind whose inputs and outputs `--state` can name."""
    if isinstance(source, str | Path):
        return Path(source).suffix.lower() in (".onnx", ".pt2", *SOURCE_FILES["TorchScript"])
    return hasattr(source, "save_to_buffer")


def _no_states(name: str) -> UsageError:
    return UsageError(
        f"--state names tensors of an ONNX, .pt2 or TorchScript file, and {name} is not one",
        remedy="Leave it out.",
    )


def _open(source: Any, options: Options) -> Source:
    if isinstance(source, str) and names_callable(source):
        source = load_callable(source)
    if isinstance(source, str | Path):
        return _open_file(Path(source), options)
    from torch import jit, nn

    if is_sb3(source):
        from policyctl_exporters.sb3_source import open_live

        return open_live(source, options)
    if isinstance(source, jit.ScriptModule):
        from policyctl_exporters.modules import name_of

        return _open_program(source.save_to_buffer(), name_of(source), options)
    if isinstance(source, nn.Module):
        from policyctl_exporters.conduct import owned
        from policyctl_exporters.modules import open_module

        module, notes = owned(source, trusted=options.trust_operators)
        return open_module(module, options, kind="module", notes=notes)
    raise UsageError(
        f"a policy of type {type(source).__name__} cannot be exported",
        remedy=f"Pass a Stable-Baselines3 algorithm, a torch.nn.Module, or the path of a file: {SOURCES}.",
    )


def is_sb3(source: Any) -> bool:
    """Whether it is a live Stable-Baselines3 algorithm or policy."""
    from torch import nn

    algorithm = isinstance(getattr(source, "policy", None), nn.Module) and hasattr(source, "policy_kwargs")
    return algorithm or (
        isinstance(source, nn.Module) and hasattr(source, "predict") and hasattr(source, "observation_space")
    )


def load_callable(name: str) -> Any:
    """What ``package.module:callable`` or ``FILE.py:callable`` returns without arguments: a module or a policy.

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
            try:
                importlib.import_module("stable_baselines3")
            except ImportError as error:
                remedy = "pip install 'policyctl[sb3]'"
                raise UnsupportedError("stable_baselines3 is not installed", remedy=remedy) from error
            from policyctl_exporters.sb3_source import open_archived

            return open_archived(path, options)
        case ".pt" | ".ts" | ".pth" | ".jit":
            return _open_torchscript(path, options)
        case ".pt2":
            from policyctl_exporters.pt2_source import open_pt2

            return open_pt2(path, options)
        case ".yaml" | ".yml":
            from policyctl_exporters.leapp_source import open_leapp

            return open_leapp(path, options)
        case ".onnx":
            from policyctl_exporters.onnx_source import open_onnx

            return open_onnx(path, options)
    raise UsageError(
        f"{path.name}: a file of kind {path.suffix or 'unknown'!r} is not read",
        remedy=f"Give {SOURCES}, which may load its weights from this file (policyctl docs frameworks).",
    )


def _open_torchscript(path: Path, options: Options) -> Source:
    with open_named(path, most_bytes=_MOST_BYTES) as file:
        content = file.read()
    return replace(_torchscript_or_checkpoint(content, path, options), file=(path.name, digest_of(content)))


def _torchscript_or_checkpoint(content: bytes, path: Path, options: Options) -> Source:
    from policyctl_exporters.torchscript import holds_program

    if not holds_program(content):
        from policyctl_exporters.rsl_rl_checkpoint import read_checkpoint
        from policyctl_exporters.rsl_rl_source import open_checkpoint

        checkpoint = read_checkpoint(content, name=path.name, trust_pickle=options.trust_pickle)
        if checkpoint is not None and options.states:
            raise _no_states(path.name)
        if checkpoint is not None:
            return open_checkpoint(checkpoint, path, options)
    return _open_program(content, path.name, options)


def _open_program(content: bytes, name: str, options: Options) -> Source:
    """A TorchScript program, with or without memory."""
    if options.states:
        from policyctl_exporters.program_states import open_stateful

        return open_stateful(content, name, options)
    from policyctl_exporters.conduct import checked
    from policyctl_exporters.modules import open_module, open_program
    from policyctl_exporters.program_memory import memory_of

    program = checked(content, name=name, trusted=options.trust_operators, remembers=True)
    program.module.eval()
    if memory := memory_of(program, content, name=name, trusted=options.trust_operators):
        return open_program(memory, options, notes=program.notes)
    return open_module(program.module, options, kind="torchscript", notes=program.notes)


def _settled(source: Source) -> Source:
    """The source, limited to one row an inference if rows of a batch change one another's answers.

    A server puts the observations of several clients into one batch.
    """
    rows = few(source.contract.observations, source.scales, rows=_ROWS)
    backwards = np.arange(_ROWS)[::-1]
    alone = in_batches(source.reference, rows, 1)
    # First, whatever the limit is: it asks the extremes, which may set off what lasts.
    apart = _are_apart(source, rows, alone)
    limit = source.contract.max_batch
    if limit is None and not apart:
        limit = 1
    again = take(in_batches(source.reference, take(rows, backwards), 1), backwards)
    if not compare(source.contract, alone, again, parity.fitted(alone)).agrees:
        raise UnsupportedError(
            f"{source.algorithm} answers the same observations differently in another order,"
            " so it keeps state or draws random numbers, though none of its attributes shows it",
            remedy="Export a policy that answers from the observation alone.",
        )
    if limit is None:
        return source
    return replace(
        source,
        contract=replace(source.contract, max_batch=limit),
        reference=lambda observations: in_batches(source.reference, dict(observations), limit),
        notes=(*source.notes, f"{source.algorithm} is served one row at a time: {_WHY}"),
    )


def _are_apart(source: Source, rows: Batch, alone: Batch) -> bool:
    """Whether rows are answered as if alone: in pairs, all together, and in the company of extreme ones."""
    specs = source.contract.observations
    far = take(wide(specs, np.random.default_rng(0)), slice(0, None, 8))
    extremes = join(edges(specs, source.scales, source.clip_obs), far)
    extremes, _ = answered(lambda batch: in_batches(source.reference, batch, 1), extremes)
    answer: Answer = source.reference
    if source.contract.states:
        # A program with memory answers one row: what takes several is the graph.
        from policyctl_exporters.eager import graph_of

        answer = graph_of(source)
    batches = (in_batches(answer, rows, 2), answer(rows), take(answer(join(rows, extremes)), slice(0, _ROWS)))
    return all(compare(source.contract, alone, batch, parity.fitted(alone)).agrees for batch in batches)
