"""The version numbers of what is written to disk, and the refusal of an unknown one.

What a digest chains or pins is never rewritten. So a document says which schema
it follows, and a policyctl that does not know that schema refuses the document
instead of guessing what it means.
"""

from __future__ import annotations

from policyctl.errors import IntegrityError


def require_schema(what: str, schema: object, *, known: int) -> None:
    """Refuse a document of an unknown schema.

    Args:
        what: The kind of document, for the error.
        schema: What the document says; None where it says nothing.
        known: The schema that this policyctl reads and writes.

    Raises:
        IntegrityError: The schema is unknown.
    """
    if type(schema) is int and schema == known:
        return
    newer = type(schema) is int and schema > known
    raise IntegrityError(
        f"{what}: unknown schema {schema!r}, this policyctl reads schema {known}",
        remedy="A newer policyctl wrote it: update this one. Nothing was changed."
        if newer
        else "Restore the file from a copy. Nothing was changed.",
    )
