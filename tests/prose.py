"""Hold the project's text to plain English: words that a reader in a third language stumbles over are refused.

It reads every text file that git knows, code and comments too, since names are
words. `UNCHECKED` lists what is still to be rewritten; it only gets shorter.

    python tests/prose.py            # prints FILE:LINE: the word, and what to write instead
    python tests/prose.py docs/      # the same for one folder, whatever `UNCHECKED` says
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
INSTEAD: Final = {
    r"told": "reported, printed, was asked (name the actor)",
    r"tells": "reports, prints, names",
    r"whoever": "who, anybody who, the caller",
    r"anew": "again",
    r"thereupon": "then",
    r"beside": "next to, compared with, besides",
    r"of (?:its|their) own": "leave it out, or say what is separate",
    r"(?<!there )is no (?!longer|more|fewer|less|larger|smaller|later|earlier)\w+": "unknown ..., or no ... exists",
    r"(?-i:are none|is none)": "say what is missing",
    r"in so many words": "explicitly",
}
WORDS: Final = re.compile(
    "|".join(f"(?P<w{number}>\\b(?:{word})\\b)" for number, word in enumerate(INSTEAD)), re.IGNORECASE
)
SUFFIXES: Final = {".py", ".md", ".yml", ".yaml", ".toml", ".cpp", ".h", ".hpp", ".html"}
NEVER: Final = ("tests/prose.py", "CHANGELOG.md", "docs/openapi.json")
UNCHECKED: Final = (
    "backend_openvino/",
    "tests/integration/",
    "tests/unit/conftest.py",
    "tests/unit/domain/",
    "tests/unit/exporters/",
    "tests/unit/gates/",
    "tests/unit/native/",
)
"""Files and folders that still speak the old dialect."""


def stumbles(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line number, word and replacement of each word to avoid."""
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        for match in WORDS.finditer(line):
            yield number, match[0], INSTEAD[list(INSTEAD)[int(str(match.lastgroup)[1:])]]


def main(chosen: list[str]) -> int:
    """Print what stumbles; the exit code says whether anything did."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = [name for name in listed.splitlines() if Path(name).suffix in SUFFIXES and name not in NEVER]
    if chosen:
        names = [name for name in names if name.startswith(tuple(chosen))]
    else:
        names = [name for name in names if not name.startswith(UNCHECKED)]
    found = [(name, *each) for name in names if (ROOT / name).is_file() for each in stumbles(ROOT / name)]
    for name, number, word, instead in found:
        print(f"{name}:{number}: {word!r}: write {instead}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
