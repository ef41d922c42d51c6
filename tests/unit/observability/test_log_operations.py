"""What commands write down: lines of a move carry its id, and the pages' examples run."""

from __future__ import annotations

import json
import logging
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from policyctl.domain.journal import RecordKind
from policyctl.domain.log_event import LogFilter, LogLevel
from policyctl.errors import MoveError
from policyctl.services.log import Log, log_of
from policyctl.services.logs import levels as log_levels
from policyctl.services.logs.reading import read
from policyctl.services.logs.server_log import LiveLevels, TritonLog, captured, serving
from policyctl.services.moves.rollback import rollback
from policyctl.services.rollout.promote import promote
from policyctl.serving.logs import parse
from policyctl.settings import load

PAGE = Path(__file__).parents[3] / "docs" / "logs.md"
CANARY = "canary-0123456789"


@pytest.fixture
def logged(watched):
    """The watched world, whose control plane logs everything."""
    world = watched.world
    settings = load(repository=world.root, logs={"level": "debug"}, server={"api_key": CANARY})
    world.control = replace(world.control, settings=settings, log=log_of(settings, world.root / ".policyctl"))
    return watched


def _lines(logged, **asked) -> list[dict]:
    return read(logged.world.control, LogFilter(**asked))[0]


def _moves(logged) -> list[str]:
    records = logged.world.control.repository.journal.records()
    return [r.body["move"] for r in records if r.kind is RecordKind.INTENT]


def test_every_line_of_a_move_carries_the_id_that_the_journal_has(logged) -> None:
    """Of one that succeeds, of one that fails and is taken back, and no other line does."""
    world = logged.world
    promote(world.control, model="walker", release="1.1.0", alias="production")
    world.server.wrong_slots.add(("walker", 1))
    with pytest.raises(MoveError):
        rollback(world.control, model="walker", alias="production")
    _, done, failed = _moves(logged)
    logged_lines = _lines(logged, move=done)
    assert [line["record"] for line in logged_lines if "record" in line] == [
        "intent",
        "certified",
        "switching",
        "outcome",
    ]
    assert {(line["model"], line["alias"], line["release"]) for line in logged_lines} == {
        ("walker", "production", "1.1.0")
    }
    assert {line["served"] for line in logged_lines} == {"walker", "walker.candidate"}
    back = _lines(logged, move=failed)
    assert [line["result"] for line in back if "result" in line] == ["reverted"]
    assert any(line["level"] == "error" and "not certified" in line["event"] for line in back)
    assert {line.get("move") for line in _lines(logged)} == {done, failed, None}


def test_the_lines_of_one_command_share_an_operation_and_its_refusal_is_written_down(logged) -> None:
    """Two commands are distinguished; what was refused before a move began has no move."""
    world = logged.world
    for release in ("1.1.0", "7.0.0"):
        with pytest.raises(Exception, match=r"7\.0\.0") if release == "7.0.0" else _nothing():
            promote(world.control, model="walker", release=release, alias="production")
    operations = list(dict.fromkeys(line["operation"] for line in _lines(logged)))
    assert len(operations) == 2
    assert all(re.fullmatch(r"promote-[0-9a-f]{8}", name) for name in operations)
    (refusal,) = _lines(logged, operation=operations[1], level=LogLevel.ERROR)
    assert (refusal["code"], "move" in refusal, refusal["logger"]) == ("usage", False, "policyctl.promote")


def _nothing():
    from contextlib import nullcontext

    return nullcontext()


def test_neither_a_secret_nor_a_golden_observation_is_in_any_line(logged, monkeypatch) -> None:
    """Of a failing move at level debug, with a key that the server's answer repeats."""
    world = logged.world
    load_model = world.server.load

    def tell_tale(name: str, slot: int, **_: object) -> None:
        from policyctl.errors import ServerError

        if name == "walker":
            raise ServerError(f"wrong key {CANARY}")
        load_model(name, slot)

    monkeypatch.setattr(world.server, "load", tell_tale)
    with pytest.raises(MoveError):
        promote(world.control, model="walker", release="1.1.0", alias="production")
    text = "".join(p.read_text() for p in (world.root / ".policyctl" / "logs").iterdir())
    assert "wrong key ***" in text
    assert CANARY not in text
    from world import golden

    values = [str(v) for array in golden(2).observations.values() for v in array.ravel()]
    assert not [v for v in values if v[:7] in text]


def test_where_there_is_no_repository_a_log_makes_none(tmp_path) -> None:
    """And with the file switched off nothing is written at all."""
    log_of(load(repository=tmp_path / "r"), tmp_path / "r" / ".policyctl").write(LogLevel.ERROR, "x")
    assert list(tmp_path.iterdir()) == []
    assert log_of(load(logs={"file": False}), tmp_path).sinks == ()


def test_triton_lines_go_to_their_file_and_what_matters_to_people(logged) -> None:
    """Information to the file alone; and the model that they are about is known from the journal."""
    world, said = logged.world, logged.world.said
    said.clear()
    logged.known.numbers()
    take = TritonLog(world.control, logged.known)
    take(parse("I1123 08:18:14.481762 2370 a.cc:1] loading: walker:1"))
    take(parse(f"W1123 08:18:14.481762 2370 a.cc:1] slow {CANARY}"))
    take.verbose = True
    take(parse("I1123 08:18:14.481762 2370 a.cc:1] again"))
    assert said == [f"triton warning: slow {CANARY}", "triton info: again"]
    first, second, _ = _lines(logged)
    assert (first["served"], first["logger"], first["level"]) == ("walker", "triton", "info")
    assert second["event"] == "slow ***"


def test_in_json_a_server_says_nothing_in_words(logged, capfd) -> None:
    """Every line of stderr is an object, Triton's too; the same lines stand in the files, and the key in none."""
    world = logged.world
    settings = load(repository=world.root, logs={"format": "json"})
    plain = replace(world.control, settings=settings, log=log_of(settings, world.root / ".policyctl"))
    world.said.clear()
    capfd.readouterr()
    with serving(plain, api_key=CANARY) as control:
        control.tell(f"up, with {CANARY}", logger="policyctl.serve")
        control.tell("too fine", level=LogLevel.DEBUG)
        control.say("words")
        take = TritonLog(control, logged.known)
        take(parse("I1123 08:18:14.481762 2370 a.cc:1] not worth a word"))
        take(parse("E1123 08:18:14.481762 2370 a.cc:1] broken"))
    first, second = (json.loads(line) for line in capfd.readouterr().err.splitlines())
    assert (first["event"], first["logger"], world.said) == ("up, with ***", "policyctl.serve", [])
    assert (second["event"], second["level"], second["operation"]) == ("broken", "error", first["operation"])
    logged_lines = [line["event"] for line in _lines(logged)]
    assert sorted(logged_lines) == ["broken", "not worth a word", "up, with ***"]


def test_libraries_write_into_the_same_log() -> None:
    """Their warnings and errors do; and nothing any more after the block."""
    lines: list[str] = []
    log = Log(LogLevel.INFO, (lines.append,))
    with captured(log):
        logging.getLogger("urllib3").warning("retrying %s", "x")
        logging.getLogger("urllib3").info("too fine")
        logging.getLogger("uvicorn").critical("it ends")
    logging.getLogger("urllib3").error("after")
    first, second = (json.loads(line) for line in lines)
    assert (first["event"], first["logger"], first["level"]) == ("retrying x", "urllib3", "warning")
    assert (second["event"], second["logger"], second["level"]) == ("it ends", "uvicorn", "error")


class _LevelServer:
    """Remembers the levels that it was given."""

    def __init__(self) -> None:
        self.given: list[LogLevel] = []

    def log_level(self, level: LogLevel) -> LogLevel:
        self.given.append(level)
        return level


def test_levels_follow_a_wish_while_the_server_runs_and_the_settings_after_a_reset(logged) -> None:
    """Triton is asked once for each change, and a new run of it again."""
    control, server = logged.world.control, _LevelServer()
    levels = LiveLevels(control, server)
    levels.follow()
    assert (control.log.level, server.given) == (LogLevel.DEBUG, [])
    log_levels.change(control, level=LogLevel.WARNING, triton=None)
    log_levels.change(control, level=None, triton=LogLevel.DEBUG)
    for _ in range(3):
        levels.follow()
    assert (control.log.level, server.given) == (LogLevel.WARNING, [LogLevel.DEBUG])
    again = _LevelServer()
    LiveLevels(control, again).follow()
    assert again.given == [LogLevel.DEBUG]
    log_levels.path_in(control).write_text("{broken")
    levels.follow()
    assert (control.log.level, server.given[-1]) == (LogLevel.DEBUG, LogLevel.INFO)
    log_levels.change(control, level=LogLevel.ERROR, triton=None)
    assert log_levels.reset(control) == log_levels.Levels(LogLevel.DEBUG, LogLevel.INFO)


def test_every_command_of_the_page_runs(logged, run, monkeypatch) -> None:
    """What it shows is there for people and for machines; what follows without end is only understood."""
    monkeypatch.setenv("POLICYCTL_REPOSITORY", str(logged.world.root))
    promote(logged.world.control, model="walker", release="1.1.0", alias="production")
    found = [
        line for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL) for line in block.splitlines()
    ]
    assert len(found) > 6
    for line in found:
        arguments = shlex.split(line.partition("|")[0])[1:]
        if "--follow" in arguments:
            continue
        done = run(*arguments)
        assert done.code == 0, f"{line}\n{done.err}"
    (move,) = _moves(logged)[1:]
    shown = run("logs", "--move", move[:6], "--json").document
    assert {line["move"] for line in shown} == {move}
    words = run("logs", "--move", move).out.splitlines()
    assert len(words) == len(shown)
    assert f"move={move}" in words[0]
    assert "Only the last 2" in run("logs", "-n", "2").err
    assert run("logs", "--since", "yesterday").code == 2
    assert "No such line" in run("logs", "--request-id", "nobody").err


def test_log_level_shows_changes_and_resets(logged, run, monkeypatch) -> None:
    """Both levels, each alone; what makes no sense is refused."""
    monkeypatch.setenv("POLICYCTL_REPOSITORY", str(logged.world.root))
    assert run("log-level", "--json").document == {"control": "info", "triton": "info"}
    assert run("log-level", "debug", "--json").document == {"control": "debug", "triton": "info"}
    assert run("log-level", "warning", "--triton", "--json").document == {"control": "debug", "triton": "warning"}
    assert run("log-level", "--reset").out == "control plane info, Triton info\n"
    assert run("log-level", "--triton").code == 2
    assert run("log-level", "debug", "--reset").code == 2
