"""The commands about model cards: what they print, write, and exit with."""

from __future__ import annotations

import json

import pytest
from world import write_export


def test_a_card_is_made_and_checked(run, tmp_path) -> None:
    """init writes a card that check accepts; a wrong one is refused with 2 and every field, in JSON too."""
    folder = write_export(tmp_path / "export", 1)
    card = folder / "model_card.yaml"
    assert run("card", "init", folder).code == 2
    card.unlink()
    assert "schema_version: 2" in run("card", "init", folder, "--dry-run").out
    assert not card.exists()
    assert run("card", "init", folder).code == 0
    good = run("card", "check", folder)
    assert (good.code, "nothing is wrong" in good.out) == (0, True)
    assert "Missing: summary" in good.err
    card.write_text(card.read_text() + "licence: 3\nsumary: x\n")
    bad = run("card", "check", folder)
    assert (bad.code, "Error (usage): " in bad.err) == (2, True)
    document = run("card", "check", folder, "--json").document
    assert document["valid"] is False
    assert [p["path"] for p in document["problems"]] == ["licence", "sumary"]
    assert all(p["line"] > 1 for p in document["problems"])


def test_publish_refuses_a_wrong_card_with_every_field(run, tmp_path) -> None:
    """Exit code 2, nothing published, and what to do next."""
    folder = write_export(tmp_path / "export", 1)
    (folder / "model_card.yaml").write_text("schema_version: 2\nlicence: 3\nsumary: x\nevaluation: [{}]\n")
    done = run("publish", folder, "--model", "walker", "--release", "1.0.0", "--json")
    assert done.code == 2
    problem = done.document["error"]["problem"]
    assert all(words in problem for words in ("licence (line 2)", "sumary (line 3)", "evaluation[0].evidence"))
    assert f"policyctl card check {folder}" in done.document["error"]["remedy"]
    assert not (tmp_path / "model_repository").exists()


@pytest.mark.parametrize("form", ["yaml", "md", "html", "json"])
def test_a_full_card_is_shown_in_every_form(run, quiet_world, form: str, tmp_path) -> None:
    """On stdout and into a file alike; --json is the same document as --format json."""
    shown = run("card", "show", "walker", "1.0.0", "--format", form)
    assert (shown.code, shown.err) == (0, "")
    beginnings = {"yaml": "schema_version: 2", "md": "---\n", "html": "<!doctype html>", "json": "{"}
    assert shown.out.startswith(beginnings[form])
    path = tmp_path / "card"
    written = run("card", "show", "walker", "1.0.0", "--format", form, "-o", path)
    assert (written.code, written.out, path.read_text()) == (0, "", shown.out)
    if form == "json":
        assert run("card", "show", "walker", "1.0.0", "--json").document == json.loads(shown.out)


def test_the_bill_of_materials_is_printed_and_the_same_twice(run, quiet_world, bom_problem) -> None:
    """Valid CycloneDX on stdout, byte for byte the same again."""
    one, other = run("card", "bom", "walker", "1.0.0"), run("card", "bom", "walker", "1.0.0")
    assert one.code == 0
    assert one.out == other.out
    assert bom_problem(one.out) is None


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("show", "walker", "9.9.9"), 2, "no release"),
        (("check", "nowhere"), 2, "cannot be read"),
        (("check", "walker", "9.9.9"), 2, "no release"),
        (("cite", "nowhere", "walker", "1.0.0"), 2, "cannot be read"),
        (("init", "nowhere"), 2, "cannot be read"),
        (("bom", "tiger", "1.0.0"), 2, "not published"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(run, quiet_world, arguments, code: int, words: str) -> None:
    """Each refusal names the thing and exits with its code."""
    done = run("card", *arguments)
    assert done.code == code
    assert words in done.err


def test_a_release_that_was_changed_has_no_card(run, quiet_world) -> None:
    """show and bom read a release as everything else does: what is not intact is exit code 3."""
    slot = quiet_world.control.repository.slot("walker", 1)
    slot.chmod(0o755)
    (slot / "model_card.yaml").chmod(0o644)
    (slot / "model_card.yaml").write_text("schema_version: 2\nname: x\n")
    assert run("card", "show", "walker", "1.0.0").code == 3
    assert run("card", "bom", "walker", "1.0.0").code == 3
