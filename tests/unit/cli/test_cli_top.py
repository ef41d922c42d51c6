"""`policyctl top`: figures from differences, every width, no server, and a clean end."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic  # the module's own is the world's clock here, which stands still

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1] / "bake"))

from bake_world import BakeWorld

from policyctl.adapters import endpoint as endpoints
from policyctl.cli import top
from policyctl.domain.bake import Then
from policyctl.services.rollout.promote import promote
from policyctl.services.show.top import Row, Sampler, Snapshot


@pytest.fixture
def world(tmp_path, monkeypatch) -> BakeWorld:
    """1.0.0 in production, asked by clients."""
    found = BakeWorld(tmp_path, monkeypatch)
    found.probes_count = False
    monkeypatch.setenv("POLICYCTL_REPOSITORY", str(found.root))
    monkeypatch.setattr("policyctl.services.show.top.monotonic", lambda: found.now)
    return found


def test_rates_and_latencies_are_differences_of_two_looks(world) -> None:
    """A hundred a second, a tenth of them failed, 600 us each; before the second look no rate is known."""
    world.failing["1.0.0"] = 0.1
    with Sampler(world.control) as sampler:
        (first,) = sampler.look().aliases
        world.now += 2.0
        (row,) = sampler.look().aliases
    assert (first.rate_per_s, first.latency_us) == (None, None)
    assert (row.rate_per_s, row.failed, row.latency_us) == (100.0, 20, 600.0)
    assert (row.release, row.loaded, row.probe) == ("1.0.0", True, "answered")
    assert row.verdicts == {"golden": "passed", "integrity": "passed", "parity": "passed"}


def test_what_is_under_way_is_shown(world) -> None:
    """A bake while it waits, and how the last move ended."""
    seen: list[Snapshot] = []

    def look() -> None:
        with Sampler(world.control, "walker") as sampler:
            seen.append(sampler.look())

    world.meanwhile[3] = look
    promote(world.baking(then=Then.KEEP), model="walker", release="1.1.0", alias="production", reason="faster")
    assert seen[0].aliases[0].moving.startswith("bakes: ")
    assert seen[0].last_move.startswith("promotion of walker's production from 1.0.0 to 1.1.0: done at ")
    assert seen[0].last_move.endswith("(faster)")


def test_no_server_is_said_and_the_next_look_finds_it(world) -> None:
    """The aliases stand there all the while; a wrong answer is seen."""
    endpoint = endpoints.read(world.control.repository)
    endpoints.clear(world.control.repository)
    with Sampler(world.control) as sampler:
        away = sampler.look()
        endpoints.write(world.control.repository, endpoint)
        world.server.wrong_slots.add(("walker", 1))
        back = sampler.look()
    assert (away.server, away.aliases[0].loaded) == ("", None)
    assert "no server is running" in away.problem
    assert (back.problem, back.aliases[0].probe) == ("", "wrong")


def row(**more) -> Row:
    """One that is served well."""
    figures = {"loaded": True, "rate_per_s": 120.0, "failed": 0, "latency_us": 612.0, "queue_us": 20.0}
    return Row("walker", "production", "walker", "1.0.0", 1, "openvino", "2026-01-01T00:00:00+00:00", **figures | more)


@pytest.mark.parametrize("width", [20, 40, 58, 80, 100, 160])
def test_a_narrow_terminal_shows_less_and_never_breaks(width) -> None:
    """No line is longer than the terminal; what matters most stays to the last."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=False)
    hostile = "by \x1b[2Jme"
    console.print(
        top.render(Snapshot("2026-01-01T10:00:00.000+00:00", "/r", "host:1", "", (row(),), last_move=hostile), console)
    )
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "\x1b" not in out.getvalue()
    assert ("probe" in out.getvalue()) == (width >= 58)
    if width >= 40:
        assert "1.0.0" in out.getvalue()
        assert "612" in out.getvalue()


def test_json_is_one_line_an_interval_and_holds_no_key(world, run, monkeypatch) -> None:
    """Each line a document; words go elsewhere."""
    monkeypatch.setattr(top, "_sleep", lambda seconds: setattr(world, "now", world.now + seconds))
    done = run("top", "--json", "--count", "3", "--interval", "2")
    documents = [json.loads(line) for line in done.out.splitlines()]
    assert [d["aliases"][0]["rate_per_s"] for d in documents] == [100.0] * 3
    assert (done.code, done.err) == (0, "")
    assert "api_key" not in done.out


def test_once_is_a_table_and_without_a_terminal_there_are_lines(world, run, monkeypatch) -> None:
    """A line for each alias and interval that grep and awk can read."""
    monkeypatch.setattr(top, "_sleep", lambda seconds: setattr(world, "now", world.now + seconds))
    shown = run("top", "--once").out
    assert "compute us" in shown
    assert "Last: promotion of walker's production from nothing to 1.0.0: done" in shown
    lines = run("top", "-n", "2").out.splitlines()
    assert [line.split()[1:4] for line in lines] == [["walker", "release=1.0.0", "/s=100.0"]] * 2


def test_what_can_never_be_shown_is_refused(world, run) -> None:
    """No such model, no repository."""
    assert run("top", "wlaker", "--once").code == 2
    assert run("top", "--once", "--repository", "nowhere").code == 2


@pytest.mark.parametrize("how", ["q", "Ctrl-C"])
def test_a_terminal_is_left_as_it_was(world, how) -> None:
    """In a real terminal without a server: the screen comes, says so, and q or Ctrl-C ends it with 0."""
    endpoints.clear(world.control.repository)
    main_end, terminal = pty.openpty()
    code = "from policyctl.cli.main import main; import sys; sys.argv = ['policyctl', 'top', '-i', '0.1']; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
        start_new_session=True,
    )
    os.close(terminal)
    seen, sent, deadline = b"", False, monotonic() + 300
    while process.poll() is None and monotonic() < deadline:
        if select.select([main_end], [], [], 0.1)[0]:
            with contextlib.suppress(OSError):
                seen += os.read(main_end, 4096)
        if b"NO SERVER" in seen and not sent:
            sent = True
            if how == "q":
                os.write(main_end, b"q")
            else:
                process.send_signal(signal.SIGINT)
    if process.poll() is None:
        process.kill()
    assert process.wait() == 0
    with contextlib.suppress(OSError):
        seen += os.read(main_end, 65536)
    os.close(main_end)
    assert b"\x1b[?1049h" in seen  # the other screen
    assert b"\x1b[?1049l" in seen  # and back
    assert b"Traceback" not in seen
