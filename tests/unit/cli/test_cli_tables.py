"""Tables and lines for people, on terminals and pipes of any width."""

from __future__ import annotations

import io
import os
import pty
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.cli.output import Output
from policyctl.cli.tables import table, width_of

WORDS = st.text(st.characters(codec="utf-8", categories=("L", "N", "P")), min_size=1, max_size=30)
CELLS = st.lists(WORDS, max_size=8).map(" ".join)


@given(rows=st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=4), width=st.integers(20, 200))
def test_no_word_of_a_table_is_broken(rows, width: int) -> None:
    """At any width every word of every cell stands whole, as a column or as a list."""
    shown = table(("model", "reason", "slot"), rows, right=(False, False, True), width=width)
    found = set(shown.split())
    assert {word for row in rows for cell in row for word in cell.split()} <= found


@given(rows=st.lists(st.tuples(CELLS, CELLS), max_size=4), width=st.integers(60, 200))
def test_no_line_is_wider_than_the_terminal(rows, width: int) -> None:
    """Unless one word alone is."""
    shown = table(("model", "reason"), rows, right=(False, False), width=width)
    for line in shown.splitlines():
        assert len(line) <= width or len(line.split()) <= 2


def test_a_row_without_room_becomes_a_list() -> None:
    """Each cell has a line, under its column's name."""
    row = ("walker", "sha256:" + "0" * 64)
    assert table(("model", "manifest"), [row], right=(False, False), width=60).splitlines() == [
        "model     walker",
        "manifest  sha256:" + "0" * 64,
    ]


def test_a_table_without_limit_has_a_line_for_each_row() -> None:
    """So grep and awk see whole rows."""
    shown = table(("a", "b"), [("x " * 200, "y")], right=(False, True), width=None)
    assert len(shown.splitlines()) == 3


@pytest.mark.parametrize(("columns", "expected"), [("60", 60), ("", None), ("0", None), ("wide", None)])
def test_columns_gives_a_pipe_its_width(monkeypatch, columns: str, expected: int | None) -> None:
    """COLUMNS counts for a pipe as for a terminal; without it a pipe has no limit."""
    monkeypatch.setenv("COLUMNS", columns)
    assert width_of(io.StringIO()) == expected


def test_a_terminal_has_its_own_width(monkeypatch) -> None:
    """Where COLUMNS is not set, the terminal is asked."""
    monkeypatch.delenv("COLUMNS", raising=False)
    leader, follower = pty.openpty()
    try:
        import fcntl
        import struct
        import termios

        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 97, 0, 0))
        with os.fdopen(follower, "w") as terminal:
            assert width_of(terminal) == 97
    finally:
        os.close(leader)


def test_nothing_that_is_said_drives_the_terminal(capsys) -> None:
    """Names in messages come from files that others wrote."""
    Output().say("model \x1b[31mred\x07")
    assert capsys.readouterr().err == "model \\x1b[31mred\\x07\n"
    Output().table(None, "\x1b]0;title\x07", ("a",), [("\x1b[2J",)])
    assert "\x1b" not in capsys.readouterr().out


def test_colours_are_for_terminals_that_have_them(monkeypatch) -> None:
    """A pipe, NO_COLOR and TERM=dumb get plain text."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def shown(**variables: str) -> str:
        for name in ("NO_COLOR", "TERM"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setattr(sys, "stdout", stream := Terminal())
        Output().table(None, "Title", ("a",), [("b",)])
        return stream.getvalue()

    assert "\x1b[1mTitle" in shown(TERM="xterm")
    assert "\x1b" not in shown(TERM="xterm", NO_COLOR="1")
    assert "\x1b" not in shown(TERM="dumb")
