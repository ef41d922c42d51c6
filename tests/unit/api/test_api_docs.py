"""docs/openapi.json and the table of refusals in docs/api.md are what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from policyctl.api.documents import Problem
from policyctl.api.problems import STATUS
from policyctl.api.server import document
from policyctl.errors import PolicyctlError

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "api.md").read_text()


def test_the_description_that_is_kept_is_the_one_of_the_code() -> None:
    """A change of the interface shows as a change of a file."""
    assert (DOCS / "openapi.json").read_text() == document(), "policyctl api --openapi > docs/openapi.json"


def test_every_code_of_an_error_has_a_status_and_a_row() -> None:
    """No refusal of a service becomes an unexpected failure, and the page lists each."""
    # Clients and benchmarks raise errors that no service raises.
    others = ("policyctl.client", "policyctl.measuring")
    codes = {kind.code for kind in _below(PolicyctlError) if not kind.__module__.startswith(others)}
    assert codes == STATUS.keys()
    refusals = [PAGE.split("## Refusals")[1], Problem.model_fields["code"].description or ""]
    assert all(re.search(rf"\b{code}\b", text) for code in codes for text in refusals)


def _below(kind: type[PolicyctlError]) -> set[type[PolicyctlError]]:
    return {kind}.union(*(_below(each) for each in kind.__subclasses__()))
