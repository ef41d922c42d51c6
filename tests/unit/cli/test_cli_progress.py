"""Long work shows that it goes on: a line that changes on a terminal, plain lines elsewhere, nothing with --quiet."""

from __future__ import annotations

import io
import re
import time
from types import SimpleNamespace

import pytest

from policyctl.cli import progress
from policyctl.cli.output import Output
from policyctl.services.control import Control
from policyctl.settings import load


class Stream(io.StringIO):
    """A stderr that is a terminal, or not."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.fixture(autouse=True)
def _no_time_passes(monkeypatch) -> None:
    """However long a busy machine takes, the state says 0 s."""
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: 0.0))


@pytest.fixture
def shown(monkeypatch, tmp_path, elsewhere):
    """Do work of some steps with an output, and give what it wrote."""
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    for name in ("TERMINAL_S", "PLAIN_S"):
        monkeypatch.setattr(progress, name, 0.01)

    def work(output: Output, *, terminal: bool, steps: int = 3) -> str:
        stream = Stream(terminal=terminal)
        monkeypatch.setattr("sys.stderr", stream)
        control = Control(load(repository=tmp_path), None, output.say, show=output.working)  # type: ignore[arg-type]
        with control.working("Measuring", at_most_s=60.0) as note:
            for step in range(steps):
                note(f"step {step} \x1b[2J")
                before, until = len(stream.getvalue()), time.monotonic() + 300
                while not output.quiet and len(stream.getvalue()) == before and time.monotonic() < until:
                    time.sleep(0.005)
            output.say("A line in between.")
        return stream.getvalue()

    return work


def test_a_terminal_has_one_line_that_changes(shown) -> None:
    """It says how long it takes and how far it has come, fits the terminal, and is gone in the end."""
    text = shown(Output(), terminal=True)
    first, *states = text.split(progress.CLEAR)
    assert first == "Measuring ...\n"
    assert any(re.fullmatch(r"  0 of at most 60 s, step 1 .*", state) for state in states)
    assert all("\n" not in state for state in states if state.startswith("  "))
    assert all(len(state) < 60 for state in states if state.startswith("  "))
    assert text.endswith(("A line in between.\n", progress.CLEAR))
    assert f"{progress.CLEAR}A line in between.\n" in text


@pytest.mark.parametrize("terminal", [False, True])
def test_a_file_has_plain_lines(shown, monkeypatch, terminal: bool) -> None:
    """No character of them drives a terminal; one that is dumb has them too."""
    if terminal:
        monkeypatch.setenv("TERM", "dumb")
    lines = shown(Output(), terminal=terminal).splitlines()
    assert lines[0] == "Measuring ..."
    assert any(re.fullmatch(r"Measuring: 0 of at most 60 s, step 1 .*", line) for line in lines)
    assert all(line.isprintable() for line in lines)


def test_nothing_is_shown_where_nobody_wants_it(shown) -> None:
    """--quiet leaves errors alone."""
    assert shown(Output(quiet=True), terminal=True) == ""


def test_work_inside_other_work_shows_its_own_state(monkeypatch) -> None:
    """The outer one goes on when the inner one is over."""
    monkeypatch.setattr(progress, "PLAIN_S", 0.01)
    stream = Stream(terminal=False)
    monkeypatch.setattr("sys.stderr", stream)

    def wait_for_line(begin: str) -> None:
        until = time.monotonic() + 300
        while not stream.getvalue().rpartition("\n")[0].rpartition("\n")[2].startswith(begin):
            assert time.monotonic() < until
            time.sleep(0.005)

    with progress.working("outer", None):
        wait_for_line("outer: 0 s")
        with progress.working("inner", None):
            wait_for_line("inner: 0 s")
            before = stream.getvalue().count("outer")
            time.sleep(0.1)
            assert stream.getvalue().count("outer") == before
        wait_for_line("outer: 0 s")


def test_an_error_ends_the_line(monkeypatch) -> None:
    """Whatever happens in it."""
    monkeypatch.setattr("sys.stderr", Stream(terminal=True))
    with pytest.raises(RuntimeError), progress.working("it", None):
        raise RuntimeError("x")
    assert progress._under_way == []
