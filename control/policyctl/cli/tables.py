"""Tables in plain text, as wide as the place where they are shown.

A terminal or COLUMNS gives the width. A pipe without COLUMNS has none, so rows
stay whole for grep and awk. Lines break between words only. Where a row has no
room for its longest words, each cell that is not empty gets a line.

A library's table would break inside words there, and importing one takes longer
than asking the server.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Sequence
from typing import TextIO
from unicodedata import east_asian_width

_GAP = 2
_USUAL = 80
_READABLE = 16
"""A column that is wider than this is not squeezed below it."""
_LITTLE = 8
"""A column that lacks no more than this is not wrapped for the sake of wider ones."""


def width_of(stream: TextIO) -> int | None:
    """How many columns `stream` shows; None for a pipe or a file where COLUMNS is not set."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given):
        return int(given)
    if not stream.isatty():
        return None
    return os.get_terminal_size(stream.fileno()).columns or _USUAL


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[bool], width: int | None) -> str:
    """Rows under their columns, or a list of cells for each row where they do not fit.

    Args:
        right: Whether a column holds numbers, which stand to the right.
        width: Of the place where it is shown; None for no limit.
    """
    grid = [list(columns), *map(list, rows)]
    widths = _widths(grid, width)
    if widths is None:
        return "\n\n".join(_listed(columns, row, width or 0) for row in grid[1:])
    lines = [_line(grid[0], widths, right), " ".ljust(_GAP).join("-" * w for w in widths)]
    lines += [_line(row, widths, right) for row in grid[1:]]
    return "\n".join(lines)


def wrapped(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width` columns; a longer word stays whole, alone on its line."""
    if cells(text) <= width:
        return [text]
    return textwrap.wrap(text, max(1, width), break_long_words=False, break_on_hyphens=False) or [""]


def cells(text: str) -> int:
    """How many columns of a terminal `text` takes."""
    return len(text) if text.isascii() else sum(2 if east_asian_width(character) in "WF" else 1 for character in text)


def _widths(grid: Sequence[Sequence[str]], width: int | None) -> list[int] | None:
    """The width of each column; None where no table fits."""
    natural = [max(map(cells, column)) for column in zip(*grid, strict=True)]
    if width is None:
        return natural
    room = width - _GAP * (len(natural) - 1)
    longest = [
        max(cells(word) for cell in column for word in cell.split() or [""]) for column in zip(*grid, strict=True)
    ]
    found = [max(word, min(whole, _READABLE)) for word, whole in zip(longest, natural, strict=True)]
    if sum(found) > room:
        return None
    # The columns that need least get it first, so that few cells are wrapped; wide ones share what is left.
    waiting = sorted((whole - given, index) for index, (whole, given) in enumerate(zip(natural, found, strict=True)))
    for place, (need, index) in enumerate(waiting):
        left = room - sum(found)
        share = left if need <= _LITTLE else left // (len(waiting) - place)
        found[index] += min(share, need)
    return found


def _line(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    columns = [wrapped(cell, width) for cell, width in zip(row, widths, strict=True)]
    lines = []
    for number in range(max(map(len, columns))):
        parts = []
        for column, width, numeric in zip(columns, widths, right, strict=True):
            text = column[number] if number < len(column) else ""
            blank = " " * (width - cells(text))
            parts.append(blank + text if numeric else text + blank)
        lines.append(" ".ljust(_GAP).join(parts).rstrip())
    return "\n".join(lines)


def _listed(columns: Sequence[str], row: Sequence[str], width: int) -> str:
    indent = max(map(cells, columns)) + _GAP
    lines = []
    for name, cell in zip(columns, row, strict=True):
        if not cell:
            continue
        first, *rest = wrapped(cell, width - indent)
        lines += [f"{name}{' ' * (indent - cells(name))}{first}", *(" " * indent + line for line in rest)]
    return "\n".join(lines)
