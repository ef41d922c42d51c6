"""Read a card's YAML: what it says, where each field stands, and what no card may hold."""

from __future__ import annotations

from dataclasses import dataclass

from policyctl.documents import document, yaml_text
from policyctl.documents.document import MOST_BYTES, Path, Problem, path_words, paths, shown
from policyctl.documents.yaml_text import dump
from policyctl.errors import UsageError

__all__ = ["MOST_BYTES", "Document", "Path", "Problem", "dump", "parse", "path_words", "paths", "shown"]


@dataclass(frozen=True, slots=True)
class Document(document.Document):
    """A card as it was read."""

    @property
    def version(self) -> int:
        """Which schema it follows; without ``schema_version`` the loose first one.

        Raises:
            UsageError: That is no version.
        """
        found = self.data.get("schema_version", 1)
        if type(found) is not int or found < 1:
            raise UsageError(
                f"schema_version is {found!r} (line {self.line(('schema_version',))}), expected a whole number from 1",
                remedy="Write schema_version: 2, or leave it out of a card of the first, loose kind.",
            )
        return found


def parse(content: bytes, *, what: str = "the model card") -> Document:
    """Read a card.

    Raises:
        UsageError: It is no YAML, no mapping, or larger than any card.
    """
    found = yaml_text.parse(content, what=what)
    return Document(found.data, found.lines, found.complaints)
