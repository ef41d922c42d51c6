"""One thing that is wrong with the settings, and where it stands."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from policyctl.errors import UsageError


@dataclass(frozen=True, slots=True, order=True)
class SettingProblem:
    """One thing that is wrong.

    Attributes:
        file: In which file; empty where it is none.
        line: Where in it, from 1; 0 where there is no line.
        key: Which setting; empty for a whole file.
        found: What stands there; empty where nothing does. Never a secret.
        expected: What is expected.
        source: Where it stands if not in a file: a variable's name, ``command line``, ``default``.
    """

    file: str
    line: int
    key: str
    found: str
    expected: str
    source: str = ""

    @property
    def place(self) -> str:
        """``policyctl.yaml:7``, ``POLICYCTL_SERVER__HTTP_PORT``."""
        return f"{self.file}:{self.line}" if self.file and self.line else self.file or self.source

    @property
    def words(self) -> str:
        """One sentence."""
        key = f"{self.key} " if self.key else ""
        where = f"{key}({self.place})" if self.place and self.key else self.key or self.place
        return f"{where}: {f'{self.found}, ' if self.found else ''}expected {self.expected}"

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "file": self.file or None,
            "line": self.line or None,
            "source": self.source or None,
            "key": self.key,
            "found": self.found,
            "expected": self.expected,
        }


def refusal(problems: Iterable[SettingProblem]) -> UsageError:
    """What to say where there are some: every one."""
    found = list(problems)
    if len(found) == 1:
        told = f" {found[0].words}"
    else:
        told = f" {len(found)} problems:" + "".join(f"\n  {each.words}" for each in found)
    return UsageError(
        f"settings:{told}",
        remedy="Correct the option, the POLICYCTL_... variable or the file. See: policyctl config validate",
    )
