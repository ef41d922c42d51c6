"""What commands print: one JSON document for machines, whole rows and literal words for people."""

from __future__ import annotations

import json

import pytest
from world import write_export


def test_a_release_goes_all_its_way_in_documents(world, run, monkeypatch) -> None:
    """Publish, validate, promote, roll back, look: each leaves one strict JSON document, and words elsewhere."""
    monkeypatch.setenv("POLICYCTL_REPOSITORY", str(world.root))
    seen = {}
    for number, release in enumerate(("1.0.0", "1.1.0"), start=1):
        source = write_export(world.folder / release, number)
        would = run("publish", source, "-n", "walker", "--release", release, "--dry-run", "--json")
        done = run("publish", source, "-n", "walker", "--release", release, "--json")
        assert would.document == {**done.document, "dry_run": True}
        assert done.document["slot"] == number
        seen["validate"] = run("validate", "walker", release, "--gates", "none", "--json")
        seen["dry promote"] = run("promote", "walker", release, "--dry-run", "--json")
        seen["promote"] = run("promote", "walker", release, "--reason", "better", "--json")
        seen["again"] = run("promote", "walker", release, "--json")
    seen["rollback"] = run("rollback", "walker", "--json")
    for name in ("status", "history", "verify"):
        seen[name] = run(name, "--json")
    for name, ran in seen.items():
        assert ran.code == 0, (name, ran.err)
        assert ran.document is not None
    assert seen["validate"].document["verdict"] == "passed"
    assert [g["gate"] for g in seen["validate"].document["gates"]] == ["integrity", "parity", "golden"]
    assert (seen["dry promote"].document["dry_run"], len(seen["dry promote"].document["steps"]) > 5) == (True, True)
    assert seen["promote"].document["changed"] is True
    assert seen["again"].document["changed"] is False
    assert (seen["rollback"].document["from"], seen["rollback"].document["to"]) == ("1.1.0", "1.0.0")
    status = seen["status"].document
    assert status["healthy"] is True
    assert [(a["alias"], a["release"], a["answers"]) for a in status["aliases"]] == [("production", "1.0.0", "1.0.0")]
    assert [r["seq"] for r in seen["history"].document] == list(range(len(seen["history"].document)))
    assert {"published", "gate", "intent", "certified", "switching", "outcome"} == {
        r["kind"] for r in seen["history"].document
    }
    assert seen["verify"].document["intact"] is True


def test_history_can_be_cut_and_narrowed(served_world, run) -> None:
    """The last N records, and those of one model."""
    served_world.publish("1.0.0", 3, model="runner")
    everything = run("history", "--json").document
    assert run("history", "--limit", "2", "--json").document == everything[-2:]
    runner = run("history", "runner", "--json").document
    assert [r["model"] for r in runner] == ["runner"]
    assert len(run("history", "walker", "--json").document) == len(everything) - 1


def test_status_check_exits_with_six_unless_everything_answers(served_world, run) -> None:
    """A probe needs no more than the exit code."""
    assert run("status", "--check").code == 0
    served_world.server.memory.write_text("{}")
    plain = run("status", "--check")
    assert plain.code == 6
    assert "NOTHING" in plain.out
    assert json.loads(run("status", "--json").out)["healthy"] is False


def test_a_server_that_is_named_and_does_not_answer_is_an_error(quiet_world, run) -> None:
    """The journal's part is shown all the same; without --url a server may be missing."""
    named = run("status", "--url", "127.0.0.1:1", "--json")
    assert (named.code, named.document["server_live"]) == (6, False)
    assert "127.0.0.1:1" in run("status", "--url", "127.0.0.1:1").err
    assert run("status").code == 0


NASTY = [
    "[red]not markup[/red]",
    "[/unopened]",
    "[link=http://x]",
    ":warning: :smile:",
    "a\\[b",
    "\"quotes\" and 'more'",
    "snow \u2603",
]


@pytest.mark.parametrize("reason", NASTY)
def test_a_reason_is_shown_as_it_was_typed(served_world, run, reason: str) -> None:
    """Brackets and colons are text, not markup, in tables, in words and in documents."""
    moved = run("promote", "walker", "1.1.0", "--reason", reason)
    assert moved.code == 0
    shown = run("history")
    assert shown.code == 0
    assert reason in shown.out
    assert reason in [r.get("reason") for r in run("history", "--json").document]


@pytest.mark.parametrize("text", NASTY)
def test_a_refusal_shows_the_value_as_it_was_typed(quiet_world, run, text: str) -> None:
    """The value that is quoted in a message is not interpreted."""
    refused = run("status", text)
    assert refused.code == 2
    assert repr(text) in refused.err


def test_a_folder_with_brackets_is_named_in_full(served_world, run) -> None:
    """A stray folder of any name is found and shown."""
    (served_world.root / "walker[1]").mkdir()
    found = run("verify")
    assert found.code == 3
    assert "walker[1]" in found.out


def test_rows_stay_whole_in_a_pipe(served_world, run, monkeypatch) -> None:
    """Where COLUMNS is not set, a long reason does not break a row in two, so grep and awk can read it."""
    monkeypatch.delenv("COLUMNS")
    reason = "because " + "x" * 700 + " end"
    assert run("promote", "walker", "1.1.0", "--reason", reason).code == 0
    (row,) = [line for line in run("history").out.splitlines() if "because" in line]
    assert reason in row


def test_a_reason_of_several_lines_keeps_its_words(served_world, run) -> None:
    """Line feeds in a reason come back in the document."""
    reason = "first\nsecond\r\n\tthird\x1b[31m"
    assert run("promote", "walker", "1.1.0", "--reason", reason).code == 0
    assert reason in [r.get("reason") for r in run("history", "--json").document]
    shown = run("history").out
    assert "first" in shown
    assert "\x1b[31m" not in shown, "what somebody typed drives nobody's terminal"


def test_quiet_says_nothing_but_errors(served_world, run) -> None:
    """With --quiet stderr is empty on success and not on a refusal."""
    assert run("promote", "walker", "1.1.0").err != ""
    assert run("rollback", "walker", "--quiet").err == ""
    assert run("rollback", "walker", "--quiet").err.startswith("Error (usage): ")


def test_words_for_people_are_not_data(world, run, monkeypatch) -> None:
    """What a publish says next goes to stderr; stdout has the result alone."""
    monkeypatch.setenv("POLICYCTL_REPOSITORY", str(world.root))
    done = run("publish", write_export(world.folder / "x", 1), "-n", "walker", "--release", "1.0.0")
    assert done.out.startswith("Published walker 1.0.0 as slot 1: onnx; ")
    assert done.out.count("\n") == 1
    assert done.err == "Next: policyctl promote walker 1.0.0\n"


def test_the_option_wins_over_the_variable(quiet_world, run, monkeypatch) -> None:
    """`--repository` is what is meant, whatever the environment says."""
    monkeypatch.setenv("POLICYCTL_REPOSITORY", "elsewhere")
    assert run("status", "-r", quiet_world.root, "--json").document["repository"] == str(quiet_world.root)
    assert run("status").code == 2
