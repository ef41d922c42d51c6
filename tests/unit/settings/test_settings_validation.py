"""Validation: everything that is wrong, in every file, at once."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.documents.toml_text import value_text as toml_value
from policyctl.services.settings.explained import check
from policyctl.settings import Settings, Source, source

WRONG = {
    "lock_wait_s": -1,
    "server.http_port": 70000,
    "server.grpc_port": "web",
    "server.timeout_s": 0,
    "server.http_prt": 1,
    "serving.instances": 0,
    "serving.gpu": "maybe",
    "serving.native": "sometimes",
    "serving.parameters.x": 5,
    "gates.validate_with": 5,
    "gates.replay.agreement": 2,
    "gates.behavior": {},
    "scrubb": {},
    "integrity.signatures": "yes please",
    "storage.share_from_bytes": 0,
    "retention.days": "x",
}
RIGHT = {"server.metrics_port": 5, "server.load_timeout_s": 3.5, "serving.max_batch_size": 2, "retention.newest": 3}


def write(folder: str, name: str, entries: dict[str, object], *, toml: bool) -> dict[str, int]:
    """A file where each setting has its own line; and which line."""
    lines, where = [f"schema{' =' if toml else ':'} 2"], {}
    for key, value in sorted(entries.items()):
        *parents, last = (key,) if toml else key.split(".")
        for depth in range(len(parents)):
            # Sorted, so a group that has begun is the one that the line before stands in.
            if (head := ".".join(parents[: depth + 1])) not in where:
                lines.append(f"{'  ' * depth}{parents[depth]}:")
                where[head] = len(lines)
        lines.append(f"{'  ' * len(parents)}{last}{' =' if toml else ':'} {toml_value(value)}")
        where[key] = len(lines)
    Path(folder, name + (".toml" if toml else ".yaml")).write_text("\n".join(lines) + "\n")
    return where


chosen = st.lists(st.sampled_from([*WRONG, *RIGHT]), unique=True)


@settings(max_examples=60, deadline=None)
@given(chosen, chosen, chosen, st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_every_injected_error_is_found_with_its_file_and_line_and_nothing_else(base, one, two, toml) -> None:
    """In the base file and two profiles' files, in YAML and TOML, also where another layer lies over it."""
    with tempfile.TemporaryDirectory() as folder:
        expected = set()
        for name, picked, as_toml in zip(
            ("policyctl", "policyctl.one", "policyctl.two"), (base, one, two), toml, strict=True
        ):
            lines = write(folder, name, {k: {**WRONG, **RIGHT}[k] for k in picked}, toml=as_toml)
            file = str(Path(folder, name + (".toml" if as_toml else ".yaml")))
            expected |= {(file, lines[key], key) for key in picked if key in WRONG}
        found = check(Source(Settings, {}, folder=Path(folder)))
    assert {(p.file, p.line, p.path) for p in found.problems} == expected
    assert found.profiles == ("one", "two")
    assert len(found.files) == 3


def test_the_rules_of_each_profile_that_has_a_file_are_asked() -> None:
    """One command answers for every environment before anything is deployed."""
    Path("policyctl.yaml").write_text("schema: 2\nserver:\n  host: 0.0.0.0\n")
    Path("policyctl.production.yaml").write_text("schema: 2\nintegrity:\n  signatures: warn\n")
    Path("policyctl.staging.yaml").write_text("schema: 2\nintegrity:\n  signatures: warn\n")
    found = {(p.place, p.path) for p in check(source()).problems}
    assert found == {
        ("policyctl.yaml:3", "server.host"),
        ("policyctl.production.yaml:3", "integrity.signatures"),
        ("default", "security.unpickle"),
    }


def test_single_files_are_checked_alone_and_a_profile_over_its_base(monkeypatch) -> None:
    """Whatever the environment says."""
    monkeypatch.setenv("POLICYCTL_LOCK_WAIT_S", "soon")
    Path("a.yaml").write_text("schema: 2\nlock_wait_s: 1\n")
    Path("a.staging.toml").write_text("schema = 2\n")
    assert check(source(), [Path("a.yaml")]).problems == ()
    assert [p.path for p in check(source(), [Path("a.staging.toml")]).problems] == ["integrity.signatures"]
    assert [p.path for p in check(source()).problems] == ["lock_wait_s"]


@pytest.mark.parametrize("name", ["gone.yaml", "x.txt"])
def test_a_file_that_cannot_be_read_is_a_problem_and_no_traceback(name: str) -> None:
    """It is reported with the others."""
    Path("x.txt").write_text("x")
    Path("bad.yaml").write_text("schema: 2\nserver: {a: 1}\n")
    assert len(check(source(), [Path(name), Path("bad.yaml")]).problems) == 2
