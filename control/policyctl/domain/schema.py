"""Versions of what is written to disk, and the way from one to the next.

What is chained or pinned by a digest is never rewritten: a journal keeps the
lines, and a release the manifest, that it was written with. So a document of an
earlier schema is migrated while it is read, by steps that also lead back, and
its own text can always be told again, byte for byte.

Laws: `downgrade` undoes `upgrade`; a document of the newest schema passes
through both unchanged; what is newer than this policyctl is refused and never
guessed at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from policyctl.errors import IntegrityError

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """One schema to the next, and back.

    Attributes:
        up: A document of the earlier schema as one of the later.
        down: The inverse, for whatever `up` gives.
    """

    up: Callable[[Document], Document]
    down: Callable[[Document], Document]


@dataclass(frozen=True, slots=True)
class Lineage:
    """Every schema that one kind of document ever had.

    Attributes:
        what: The kind, in words for errors.
        steps: The first leads from schema 1 to 2, and so on.
    """

    what: str
    steps: tuple[Step, ...] = ()

    @property
    def newest(self) -> int:
        """The schema that is written today."""
        return len(self.steps) + 1

    def check(self, schema: object) -> int:
        """Return `schema` if it can be read.

        Raises:
            IntegrityError: It is newer than this policyctl, or no schema at all.
        """
        if type(schema) is not int or schema < 1:
            raise IntegrityError(f"{self.what}: schema {schema!r} is not a number from 1 to {self.newest}")
        if schema > self.newest:
            raise IntegrityError(
                f"{self.what}: schema {schema}, this policyctl reads up to {self.newest}",
                remedy="It was written by a newer policyctl: update this one. Nothing was changed.",
            )
        return schema

    def upgrade(self, document: Document, schema: int) -> Document:
        """`document`, written in `schema`, in the newest one.

        Raises:
            IntegrityError: The schema cannot be read.
        """
        for step in self.steps[self.check(schema) - 1 :]:
            document = step.up(document)
        return document

    def downgrade(self, document: Document, schema: int) -> Document:
        """`document`, of the newest schema, as it is written in `schema`; undoes `upgrade`.

        Raises:
            IntegrityError: The schema cannot be read.
        """
        for step in reversed(self.steps[self.check(schema) - 1 :]):
            document = step.down(document)
        return document
