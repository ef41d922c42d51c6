"""The pages for people: what this is at ``/``, and the OpenAPI document in words at ``/docs``.

They are templates of `policyctl.pages`. They run no script, load nothing, and
their policy forbids a browser to try; the one style sheet is allowed by its hash.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any, Final

from policyctl import pages

_HASH: Final = base64.b64encode(hashlib.sha256(pages.style().encode()).digest()).decode()
HEADERS: Final = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
}
Document = Mapping[str, Any]


def front(document: Document) -> str:
    """The page at ``/``: what answers here, and where to look."""
    return pages.render("api_front.html", title=_title(document), document=document)


def handbook(document: Document) -> str:
    """The page at ``/docs``: every call and every object."""
    calls = [(method.upper(), path, call) for path, item in document["paths"].items() for method, call in item.items()]
    return pages.render("api_handbook.html", title=_title(document), document=document, calls=calls)


def _title(document: Document) -> str:
    return f"{document['info']['title']} {document['info']['version']}"
