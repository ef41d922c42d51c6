"""Migration: between the schemas of a settings file, with every comment."""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.config.files import parse_file
from policyctl.config.lineage import lineage
from policyctl.config.migrating import migrated, toml_value
from policyctl.documents.rewriting import comments
from policyctl.domain.schema import Document
from policyctl.errors import UsageError
from policyctl.services.config_files import migrate, starter
from policyctl.settings import Settings

WAYS = lineage(Settings)
ENTRIES = {
    "repository": ["models", "ä # no comment"],
    "lock_wait_s": [1, 2.5],
    "server.http_port": [1, 9000],
    "server.url": ["", "host:1"],
    "serving.gpu": [True],
    "serving.parameters": [{"A": "1", "b.c": "x"}, {}],
    "serving.preferred_batch_sizes": [[1, 2], []],
    "gates.replay.agreement": [None, 0.5],
    "gates.replay.within": [0.25],
    "gates.promote_with": [["replay"]],
}
flat = st.dictionaries(st.sampled_from(sorted(ENTRIES)), st.integers(0, 1)).map(
    lambda picked: {name: ENTRIES[name][index % len(ENTRIES[name])] for name, index in picked.items()}
)
note = st.sampled_from(["", "# one", "## two: 2", "# [x] = 3"])


@given(flat)
def test_the_way_back_undoes_the_way_forth(document: Document) -> None:
    """For whatever schema 1 may hold; and what is newest passes through."""
    up = WAYS.upgrade(document, 1)
    assert WAYS.downgrade(up, 1) == document
    assert WAYS.upgrade(WAYS.downgrade(up, 1), 1) == up
    assert WAYS.upgrade(up, 2) == up


@settings(max_examples=60, deadline=None)
@given(flat, st.lists(note, min_size=20, max_size=20), st.booleans(), st.booleans())
def test_a_text_keeps_what_it_says_and_every_comment_there_and_back(document, notes, toml, trailing) -> None:
    """In YAML and in TOML; the text that comes back says what the first said, and so does the one between."""
    mark, suffix = (" =", ".toml") if toml else (":", ".yaml")
    lines = [f"{notes[-1]}\nschema{mark} 1  {notes[-2]}"]
    for (name, value), above, behind in zip(document.items(), notes[:9], notes[9:], strict=False):
        key = f'"{name}"' if toml and "." in name else name
        lines.append(f"{above}\n{key}{mark} {toml_value(value) if toml else flow(value)}  {behind if trailing else ''}")
    text = "\n".join(lines) + "\n"
    up = migrated(Settings, text.encode(), suffix=suffix, to=2)
    back = migrated(Settings, up.encode(), suffix=suffix, to=1)
    said = [parse_file(Settings, Path(f"x{suffix}"), each.encode()) for each in (text, up, back)]
    assert [s.schema for s in said] == [1, 2, 1]
    assert [s.problems for s in said] == [(), (), ()]
    assert said[0].data == said[1].data == said[2].data
    for each in (up, back):
        assert not Counter(remarks(text, toml=toml)) - Counter(remarks(each, toml=toml))


def flow(value: object) -> str:
    return "null" if value is None else toml_value(value).replace(" = ", ": ")


def remarks(text: str, *, toml: bool) -> list[str]:
    if not toml:
        return comments(text)
    return [w for w in ("# one", "## two: 2", "# [x] = 3") for line in text.splitlines() if line.rstrip().endswith(w)]


def test_comments_stay_with_what_they_belong_to() -> None:
    """As a person would have moved them."""
    text = (
        "# settings of the lab\nschema: 1\n# the proxy's\nserver.http_port: 9000  # and 8002\n"
        "# gates\ngates.replay.agreement: 0.8\nserver.grpc_port: 9001\n"
    )
    up = migrated(Settings, text.encode(), suffix=".yaml", to=2)
    assert up == (
        "# settings of the lab\nschema: 2\nserver:\n  # the proxy's\n  http_port: 9000  # and 8002\n"
        "  grpc_port: 9001\ngates:\n  replay:\n    # gates\n    agreement: 0.8\n"
    )
    nested = (
        "# lab\nschema: 2 # x\n# all of it\nserver: # here\n  # port\n  http_port: 1\n  url: |\n    a\n\n    b\n"
        "serving:\n  parameters:\n    # threads\n    N: '2'\n  preferred_batch_sizes:\n  - 1 # one\n# end\n"
    )
    assert migrated(Settings, nested.encode(), suffix=".yaml", to=1) == (
        "# lab\nschema: 1 # x\n# all of it\n# here\n# port\nserver.http_port: 1\nserver.url: |\n  a\n\n  b\n"
        "serving.parameters:\n# threads\n  N: '2'\nserving.preferred_batch_sizes:\n- 1 # one\n# end\n"
    )
    toml = '# lab\nschema = 1 # x\n"server.http_port" = 9000  # and 8002\n["serving.parameters"]\n"a.b" = "1" # p\n'
    assert migrated(Settings, toml.encode(), suffix=".toml", to=2) == (
        '# lab\nschema = 2 # x\nserver.http_port = 9000  # and 8002\n[serving.parameters]\n"a.b" = "1" # p\n'
    )


def test_tables_of_toml_become_lines_and_keep_their_comments() -> None:
    """Whatever form the groups have: headers, dotted names, inline tables."""
    text = (
        "schema = 2\n[server] # here\n# port\nhttp_port = 1\n[gates.replay]\nagreement = 0.5 # half\n"
        '[serving.parameters]\nA = "1"\n[scrub]\nenabled = false\n'
    )
    down = migrated(Settings, text.encode(), suffix=".toml", to=1)
    assert tomllib.loads(down) == {
        "schema": 1,
        "server.http_port": 1,
        "gates.replay.agreement": 0.5,
        "serving.parameters": {"A": "1"},
        "scrub.enabled": False,
    }
    assert [line for line in down.splitlines() if "#" in line] == [
        "# here",
        "# port",
        '"gates.replay.agreement" = 0.5 # half',
    ]
    inline = "# top\nschema = 2\nserver = {http_port = 1, grpc_port = 2}\n"
    found = migrated(Settings, inline.encode(), suffix=".toml", to=1)
    assert tomllib.loads(found) == {"schema": 1, "server.http_port": 1, "server.grpc_port": 2}
    assert found.startswith("# top\n")


def test_a_file_is_migrated_in_place_with_its_permissions(tmp_path) -> None:
    """A dry run leaves it; a second run changes nothing; a link still is one."""
    path = tmp_path / "real.yaml"
    path.write_text("schema: 1\nserver.http_port: 1\n")
    path.chmod(0o640)
    link = tmp_path / "policyctl.yaml"
    link.symlink_to(path)
    assert migrate(link, dry_run=True).changed
    assert path.read_text().startswith("schema: 1")
    assert migrate(link, dry_run=False).schema_before == 1
    assert (link.is_symlink(), path.stat().st_mode & 0o777) == (True, 0o640)
    assert path.read_text() == "schema: 2\nserver:\n  http_port: 1\n"
    assert not migrate(link, dry_run=False).changed


@pytest.mark.parametrize("text", ["schema: 9\n", "server:\n  http_port: 1\n", "schema: [1]\n"])
def test_what_has_no_known_schema_is_not_guessed_at(text: str) -> None:
    """Nothing is changed."""
    with pytest.raises(UsageError, match="schema"):
        migrated(Settings, text.encode(), suffix=".yaml", to=2)


@pytest.mark.parametrize("suffix", [".yaml", ".toml"])
def test_the_starter_says_nothing_and_every_default_once_its_marks_are_taken_away(suffix: str) -> None:
    """So each line of it is right, as it stands and uncommented."""
    text = starter(toml=suffix == ".toml")
    assert parse_file(Settings, Path(f"x{suffix}"), text.encode()).problems == ()
    lines = [line.replace("# ", "", 1) if line.lstrip().startswith("# ") else line for line in text.splitlines()]
    found = parse_file(Settings, Path(f"x{suffix}"), "\n".join(lines).encode())
    assert found.problems == ()
    assert Settings(**found.data) == Settings()
    assert sum(1 for line in text.splitlines() if line.lstrip().startswith("# ")) > 40
