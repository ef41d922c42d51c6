"""Find out how a policy behaves before it is exported: what it remembers, draws and reads.

A served policy answers each observation independently of earlier ones. So a
policy that keeps state between calls, or draws random numbers, is refused by
name. A branch on the values of an observation is compiled by TorchScript's
own compiler, which keeps it; where that cannot be done the policy is refused.
All of it is asked of a copy: the policy itself stays as it was.
"""

from __future__ import annotations

import copy
import random
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from policyctl.errors import UnsupportedError, UsageError, first_line, last_line
from policyctl_exporters.program_flow import rare_draws, written_attributes
from policyctl_exporters.torchscript import Program, load_program
from policyctl_exporters.watch import Place, Watch, attributes, fingerprint, tensors_in

_ROUNDS: Final = 8
_HIGHER_ORDER: Final = re.compile(r"no rule registered for HigherOrderOperator (\w+)")
_STATE_REMEDY: Final = (
    "Compile the whole policy, torch.jit.save(torch.jit.script(policy), FILE), and export that file: tensors that it"
    " remembers are then sent along with the observation. Or export a policy without memory."
)
_RANDOM_REMEDY: Final = (
    "Give the mean and log_std, or the logits: clients draw from them, by a seed. Put dropout into evaluation mode."
)


@dataclass(frozen=True, slots=True)
class Conduct:
    """A policy that may be exported.

    Attributes:
        module: What to export: the policy, with each module that branches on values compiled.
        batches: Whether it answers several observations at once, each as if alone.
        notes: What was done to it, for the person who exports.
    """

    module: nn.Module
    batches: bool
    notes: tuple[str, ...] = ()


def examine(module: nn.Module, observations: Sequence[Tensor], *, name: str) -> Conduct:
    """Hold a policy against what a served policy must be.

    Args:
        observations: At least 3 rows each.

    Raises:
        UsageError: It fails on one observation.
        UnsupportedError: It keeps state, draws random numbers, or branches on
            values in code that TorchScript cannot compile.
    """
    notes: list[str] = []
    for _ in range(_ROUNDS):
        with _random_state(), unvalidated():
            watch, batches = _ask(copied(module), observations, name)
        if not watch.reads:
            return Conduct(module, batches, tuple(notes))
        place = watch.reads[0]
        module, compiled = _compiled(module, place, name)
        notes.append(f"{compiled} uses values of the observation at {place}: TorchScript compiled it, which keeps that")
    raise UnsupportedError(f"{name} uses values of observations in more than {_ROUNDS} modules")


def owned(module: nn.Module, *, trusted: bool) -> tuple[nn.Module, tuple[str, ...]]:
    """A copy on the CPU, in evaluation mode, that shares nothing with the module; and notes on what was left out.

    TorchScript programs in it are loaded again, and checked as those of a file are. `torch.compile` is undone.

    Raises:
        UsageError: TorchScript in it does more than compute.
        UnsupportedError: TorchScript in it keeps state, or something in it cannot be copied.
    """
    programs = {id(part): _checked_part(part, trusted=trusted) for part in _programs(module)}
    notes = tuple(note for program in programs.values() for note in program.notes)
    memo: dict[int, Any] = {key: program.module for key, program in programs.items()}
    for part in module.modules():
        if type(part).__name__ == "OptimizedModule":
            # What torch.compile() wraps a module in: quicker here, and no exporter takes it.
            memo[id(part)] = copied(part._orig_mod, memo)  # type: ignore[arg-type]
    twin = copied(module, memo)
    return twin.to("cpu").eval(), notes


def checked(content: bytes, *, name: str, trusted: bool, remembers: bool = False) -> Program:
    """A TorchScript program that computes, keeps no state, and draws nothing for some observations only.

    Args:
        remembers: Whether it may keep state; `program_memory` makes an argument of that.

    Raises:
        UsageError: Not TorchScript, or a program that does more than compute.
        UnsupportedError: A call of it changes attributes, or draws in a branch on the observation.
    """
    program = load_program(content, name=name, trusted=trusted)
    if not remembers:
        _refuse_state(name, written_attributes(program))
    if draws := rare_draws(program):
        raise UnsupportedError(
            f"{name} draws random numbers for some observations: {', '.join(draws)}", remedy=_RANDOM_REMEDY
        )
    return program


def _checked_part(module: torch.jit.ScriptModule, *, trusted: bool) -> Program:
    name = str(getattr(module, "original_name", type(module).__name__))
    return checked(module.save_to_buffer(), name=name, trusted=trusted)


def copied(module: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A copy of a module."""
    try:
        with torch.no_grad():
            return copy.deepcopy(module, memo)
    except (RuntimeError, TypeError) as error:
        raise UnsupportedError(
            f"{type(module).__name__} cannot be copied ({first_line(error)})",
            remedy="Build a fresh module and load its state dict, and export that.",
        ) from error


@contextmanager
def unvalidated() -> Iterator[None]:
    """Let distributions take their arguments as they are: validation reads values, for an error alone."""
    law: Any = torch.distributions.Distribution
    before = law._validate_args
    law.set_default_validate_args(False)
    try:
        yield
    finally:
        law.set_default_validate_args(before)


def _refuse_state(name: str, changes: Sequence[str]) -> None:
    """Refuse a policy whose calls change attributes."""
    if changes:
        listed = ", ".join(sorted({path.removeprefix("module.") for path in changes}))
        raise UnsupportedError(f"{name} keeps state between calls: a call changes {listed}", remedy=_STATE_REMEDY)


def _ask(module: nn.Module, observations: Sequence[Tensor], name: str) -> tuple[Watch, bool]:
    """Ask one row twice, then several. Return what was watched, and whether several can be asked."""
    watch = Watch(module)
    generators, fresh = _generators(), fingerprint(module)
    answer = _first_answer(watch, observations, name)
    once = fingerprint(module)
    again = watch.ask([rows[:1] for rows in observations])
    if not watch.draws and _generators() != generators:
        watch.draws.append(("Python's random or numpy.random", None))
    _refuse_draws(name, watch)
    _refuse_state(name, [*_changed(once, fingerprint(module)), *_marked(module, watch)])
    if watch.memories:
        raise UnsupportedError(
            f"{name} computes with what an earlier call observed, at {watch.memories[0]}", remedy=_STATE_REMEDY
        )
    if not _same(answer, again):
        _refuse_state(name, _changed(fresh, once))
        raise UnsupportedError(
            f"{name} answers an observation differently the second time, and no attribute of it says why",
            remedy=_STATE_REMEDY,
        )
    try:
        for count in (2, len(observations[0])):
            watch.ask([rows[:count] for rows in observations])
    # Whatever the policy's own code raises: what answers one observation alone is served one at a time.
    except Exception:  # noqa: BLE001
        return watch, False
    _refuse_draws(name, watch)
    _refuse_state(name, _marked(module, watch))
    return watch, not watch.branches


def _first_answer(watch: Watch, observations: Sequence[Tensor], name: str) -> Any:
    try:
        return watch.ask([rows[:1] for rows in observations])
    except UnsupportedError:
        raise
    # Whatever the policy's own code raises on its first observation.
    except Exception as error:
        if higher := _HIGHER_ORDER.search(str(error)):
            raise UnsupportedError(
                f"{name} uses torch.{higher[1]}, which no format here can hold",
                remedy="Write an if statement or a loop, which torch.jit.script() compiles, or use torch.where.",
            ) from error
        # An operator's words get lost on their way out of a TorchScript program.
        words = last_line(error) or last_line(watch.failure or error)
        raise UsageError(
            f"{name} fails on one observation: {type(error).__name__}: {words}",
            remedy="Check the observation space, and that the policy takes a batch in its first dimension.",
        ) from error


def _refuse_draws(name: str, watch: Watch) -> None:
    if watch.draws:
        operator, place = watch.draws[0]
        at = f" at {place}" if place is not None else ""
        raise UnsupportedError(f"{name} draws random numbers when it answers: {operator}{at}", remedy=_RANDOM_REMEDY)


def _changed(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    return [name for name in after if after[name] != before.get(name)]


def _marked(module: nn.Module, watch: Watch) -> list[str]:
    return [name for name, value in attributes(module) if any(watch.marked(t) for t in tensors_in(value))]


def _same(first: Any, second: Any) -> bool:
    pairs = [(a, b) for a, b in zip(tree_leaves(first), tree_leaves(second), strict=True) if isinstance(a, Tensor)]
    return all(torch.allclose(a.double(), b.double(), rtol=1e-6, atol=1e-7, equal_nan=True) for a, b in pairs)


def _compiled(module: nn.Module, place: Place, name: str) -> tuple[nn.Module, str]:
    """A copy in which the innermost module around `place` that TorchScript can compile is compiled; its class."""
    reason = ""
    for path in place.owners:
        part = module.get_submodule(path)
        if type(part).__module__.partition(".")[0] == __package__:
            break
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = _checked_part(torch.jit.script(part), trusted=False)
        except UnsupportedError:
            raise
        # The compiler raises what it likes, the source code may be missing, and the outer module may still do.
        except Exception as error:  # noqa: BLE001
            reason = reason or first_line(error)
            continue
        return copied(module, {id(part): program.module}), type(part).__name__
    raise UnsupportedError(
        f"{name} uses values of the observation at {place}; an exported graph would keep what they were for one"
        f" observation, and TorchScript cannot compile it{f' ({reason})' if reason else ''}",
        remedy="Write it with operators (torch.where, torch.clamp, ...), or so that torch.jit.script() compiles it.",
    )


def _programs(module: nn.Module) -> Iterator[torch.jit.ScriptModule]:
    """TorchScript modules that stand in no other."""
    if isinstance(module, torch.jit.ScriptModule):
        yield module
        return
    for child in module.children():
        yield from _programs(child)


def _generators() -> tuple[Any, ...]:
    arrays = tree_leaves(np.random.get_state(legacy=False))
    numbers = (value.tobytes() if isinstance(value, np.ndarray) else value for value in arrays)
    return random.getstate(), *numbers, torch.get_rng_state().numpy().tobytes()


@contextmanager
def _random_state() -> Iterator[None]:
    """Leave the generators of Python, NumPy and torch as they were."""
    python, arrays = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
