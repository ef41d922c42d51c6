"""Names inside artifacts that do not depend on what the process did before.

OpenVINO and TorchScript number what has no name with counters that
never start again, so a second export in one process would have other bytes.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Mapping
from typing import Any, Final

_MOST_PASSED: Final = 2000
_MANGLED: Final = re.compile(rb"((?:__torch__[\w./]*?[./])?)___torch_mangle_(\d+)")


def name_operations(model: Any) -> None:
    """Number an OpenVINO model's operations that were named by a counter, in the order in which they run."""
    for index, operation in enumerate(model.get_ordered_ops()):
        kind = operation.get_type_name()
        if re.fullmatch(rf"{kind}_\d+", operation.get_friendly_name()):
            operation.set_friendly_name(f"{kind}_{index}")


def pass_numbers(graph: Any, *, newest: Any) -> None:
    """Let this process number its next classes beyond those of the TorchScript programs that a graph holds.

    A program that was read keeps the numbers of the process that wrote it. Where
    one is a traced class's by chance, TorchScript puts both into one record.

    Args:
        graph: What is traced next.
        newest: What was traced last.
    """
    import torch

    programs = (module for module in graph.modules() if isinstance(module, torch.jit.ScriptModule))
    ahead = max(map(_number, programs), default=0) - _number(newest)
    if ahead > 0:
        # Each traced class takes a number, but for the first of a process; a file may claim any.
        spare = (torch.nn.Identity() for _ in range(min(ahead, _MOST_PASSED) + 1))
        torch.jit.trace(torch.nn.Sequential(*spare), torch.zeros(1), check_trace=False)  # type: ignore[no-untyped-call]


def _number(program: Any) -> int:
    numbered = _MANGLED.search(program._c._type().qualified_name().encode())
    return 0 if numbered is None else int(numbered[2])


def number_classes(records: Mapping[str, bytes]) -> dict[str, bytes]:
    """The records of a TorchScript archive with its classes numbered in the order of their first appearance.

    Args:
        records: By name, in the order of the archive. Every class of the traced
            modules must have a number, which it has from the second trace on.
    """
    if any(_holds_sized_number(content) for name, content in records.items() if name.endswith(".pkl")):
        return dict(records)
    # By module and number: a class of a file that was read may have the number of a traced one elsewhere.
    numbers: dict[tuple[bytes, bytes], int] = {}

    def renumber(match: re.Match[bytes]) -> bytes:
        key = match[1].replace(b"/", b"."), match[2]
        return b"%s___torch_mangle_%d" % (match[1], numbers.setdefault(key, len(numbers)))

    code = {name: content for name, content in records.items() if name.endswith((".pkl", ".py"))}
    changed = {name: _MANGLED.sub(renumber, content) for name, content in code.items()}
    return {
        _MANGLED.sub(renumber, name.encode()).decode(): changed.get(name, content) for name, content in records.items()
    }


def _holds_sized_number(pickled: bytes) -> bool:
    """Whether a number stands in a string that a pickle gives the length of, which must not change."""
    return any(
        opcode.name != "GLOBAL" and isinstance(argument, str) and _MANGLED.search(argument.encode()) is not None
        for opcode, argument, _ in pickletools.genops(pickled)
    )
