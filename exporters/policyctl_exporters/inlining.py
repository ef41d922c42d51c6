"""How large a program gets where each call in it becomes what it calls.

Functions that call the one below twice double at each level: forty levels are a trillion operators. Runtimes and
readers write calls out, so a program is measured before anything does that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final

from policyctl.errors import UsageError

_MOST: Final = 200_000


def require_bounded(operators: Mapping[str, Sequence[str]], *, name: str) -> None:
    """Refuse a program that nobody can write out.

    Args:
        operators: By function what each of its operators calls; another name than that of a function calls none.

    Raises:
        UsageError: It has too many operators.
        RecursionError: Its functions call themselves, or lie too deep.
    """

    @cache
    def size(key: str) -> int:
        return 1 + sum(size(each) for each in operators.get(key, ()))

    if (count := max((size(key) for key in operators), default=0)) > _MOST:
        raise UsageError(
            f"{name} has {count} operators where every call is written out, and at most {_MOST} are read",
            remedy="Its functions call one another over and over: export it again with fewer calls.",
        )
