"""The reference page and the JSON Schema: whole, and as the tree is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from policyctl.config.keys import keys
from policyctl.documents import yaml_text
from policyctl.services.settings.files import json_schema, page, starter
from policyctl.settings import Settings

DOCS = Path(__file__).parents[3] / "docs"


def test_the_reference_page_is_up_to_date() -> None:
    """Written by: policyctl config docs > docs/settings.md."""
    assert (DOCS / "settings.md").read_text() == page(), "policyctl config docs > docs/settings.md"


def test_the_reference_has_each_setting_once_with_words() -> None:
    """Type, default, description and when a change counts."""
    rows = [line.split(" | ") for line in page().splitlines() if line.startswith("| `")]
    assert [row[0] for row in rows] == [f"| `{key.name}`" for key in keys(Settings).values()]
    assert all(len(row) == 5 and all(cell.strip(" |") for cell in row) for row in rows)


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (starter(), True),
        (starter("production"), True),
        ("schema: 2\nserver:\n  http_port: 1\n  api_key: {file: x}\n", True),
        ("schema: 2\nregistry:\n  password: x\nserving:\n  memory_reserve_mib: null\n  native: off\n", True),
        ("server:\n  http_port: 1\n", False),
        ("schema: 1\n", False),
        ("schema: 2\nserver:\n  http_prt: 1\n", False),
        ("schema: 2\nserver:\n  http_port: 70000\n", False),
        ("schema: 2\nserver:\n  api_key: {path: x}\n", False),
        ("schema: 2\nserving:\n  native: sometimes\n", False),
    ],
)
def test_editors_are_told_what_policyctl_takes(text: str, valid: bool) -> None:
    """The schema allows and refuses what reading does."""
    import jsonschema  # takes two seconds

    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    document = yaml_text.parse(text.encode(), what="x").data
    assert jsonschema.Draft202012Validator(schema).is_valid(document) is valid


def test_no_secret_is_in_the_schema(monkeypatch) -> None:
    """Whatever the environment holds."""
    monkeypatch.setenv("POLICYCTL_SERVER__API_KEY", "s3cret")
    assert "s3cret" not in json.dumps(json_schema()) + page() + starter()
