"""The command top: what is served and how it does, live in a terminal."""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final

import typer

from policyctl.cli import options
from policyctl.cli.call import Call
from policyctl.cli.output import printable
from policyctl.domain.instants import age_text, utc_text

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from policyctl.services.show.top import Row, Sampler, Snapshot

COLUMNS: Final = (
    # Its name, its cell of a row, and from which width of the terminal on.
    ("model", lambda r: r.served, 0),
    ("release", lambda r: r.release, 0),
    ("/s", lambda r: _number(r.rate_per_s, 1), 0),
    ("us", lambda r: _number(r.latency_us, 0), 0),
    ("failed", lambda r: r.failed, 0),
    ("probe", lambda r: r.probe or "-", 58),
    ("now", lambda r: r.moving, 58),
    ("queue us", lambda r: _number(r.queue_us, 0), 84),
    ("compute us", lambda r: _number(r.compute_us, 0), 84),
    ("verdicts", lambda r: _verdicts(r.verdicts), 100),
    ("probe us", lambda r: _number(r.probe_us, 0), 116),
    ("batch", lambda r: _number(r.batch, 1), 116),
    ("format", lambda r: r.format, 128),
    ("since", lambda r: age_text(r.since, now=datetime.now(UTC)), 146),
)


@options.command("repository", "url")
def top(
    call: Call,
    model: options.OptionalModel = None,
    interval: Annotated[
        float, typer.Option("--interval", "-i", metavar="SECONDS", help="Seconds between two looks.", min=0.1)
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Two looks, one table, and the end.")] = False,
    count: Annotated[int | None, typer.Option("--count", "-n", help="End after so many.", min=1)] = None,
) -> None:
    """Show live what is served, how much it is asked, how it answers. q or Ctrl-C ends it.

    Rates and mean latencies are differences of Triton's statistics; probe is
    one golden question an interval. It reads only. Where no server answers it
    says so, and tries again. Without a terminal it prints a line for each alias
    and interval.

    Examples:
        policyctl top
        policyctl top walker --interval 5
        policyctl top --once
        policyctl top --json --count 60
    """
    from policyctl.services.show.top import Sampler

    with Sampler(call.control(), model) as sampler, contextlib.suppress(KeyboardInterrupt):
        sampler.require()
        count = 1 if once else count
        if call.as_json:
            _follow(sampler, interval, count, lambda s: _line(json.dumps(s.to_json(), separators=(",", ":"))))
        elif once:
            _follow(sampler, interval, 1, lambda s: _table(call, s))
        elif sys.stdout.isatty():
            _live(sampler, interval, count)
        else:
            _follow(sampler, interval, count, lambda s: _line("\n".join(_lines(s))))


def _follow(
    sampler: Sampler,
    interval: float,
    count: int | None,
    show: Callable[[Snapshot], None],
    wait: Callable[[float], bool] | None = None,
) -> None:
    """Show one interval after another; `wait` says whether to end."""
    sampler.look()  # rates need something to differ from
    shown = 0
    while count is None or shown < count:
        if (wait or _sleep)(interval):
            return
        show(sampler.look())
        shown += 1


def _live(sampler: Sampler, interval: float, count: int | None) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False, markup=False, emoji=False)
    with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        live.update(render(sampler.look(), console), refresh=True)
        _follow(sampler, interval, count, lambda s: live.update(render(s, console), refresh=True), pressed)


def render(snapshot: Snapshot, console: Console) -> RenderableType:
    """One screen, as wide as the terminal is now; what has no room is left out."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    shown = [column for column in COLUMNS if console.width >= column[2]]
    table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name, _, _ in shown:
        numeric = name.endswith("us") or name in {"/s", "failed", "batch"}
        table.add_column(name, justify="right" if numeric else "left", no_wrap=True, overflow="ellipsis")
    for row in snapshot.aliases:
        cells = (tell(row) for _, tell, _ in shown)
        table.add_row(*("-" if cell is None else printable(str(cell)) for cell in cells), style=_style(row))
    head = f"{snapshot.time[11:19]} UTC  {_server(snapshot)}"
    notes = [Text(printable(words), overflow="fold") for words in _notes(snapshot)]
    return Group(Text(head, style="bold"), Text(""), table, Text(""), *notes, Text("q ends", style="dim"))


def _style(row: Row) -> str:
    if row.failed or row.probe in {"wrong", "failed"} or row.loaded is False:
        return "red"
    return "yellow" if row.moving else ""


def _table(call: Call, snapshot: Snapshot) -> None:
    rows = [tuple(tell(row) for _, tell, _ in COLUMNS) for row in snapshot.aliases]
    call.table(None, f"{utc_text(snapshot.time)} {_server(snapshot)}", [name for name, _, _ in COLUMNS], rows)
    for words in _notes(snapshot):
        _line(words)


def _lines(snapshot: Snapshot) -> Iterator[str]:
    """One line for each alias."""
    if snapshot.problem:
        yield f"{snapshot.time[:19]}Z {_server(snapshot)}"
    for row in snapshot.aliases:
        cells = (f"{name}={tell(row)}" for name, tell, _ in COLUMNS[1:])
        yield f"{snapshot.time[:19]}Z {row.served} " + " ".join(c.replace(" ", "_") for c in cells)


def _notes(snapshot: Snapshot) -> Iterator[str]:
    if snapshot.writer:
        yield f"At work: {snapshot.writer}"
    if snapshot.last_move:
        yield f"Last: {snapshot.last_move}"


def _server(snapshot: Snapshot) -> str:
    return f"server {snapshot.server}" if snapshot.server else f"NO SERVER: {snapshot.problem}"


def _verdicts(verdicts: dict[str, str]) -> str:
    bad = [f"{name} {verdict}" for name, verdict in sorted(verdicts.items()) if verdict != "passed"]
    return ", ".join(bad) or (f"{len(verdicts)} passed" if verdicts else "-")


def _number(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}f}"


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _line(words: str) -> None:
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """A wait that says whether q was pressed meanwhile; the terminal is as before afterwards."""
    import termios
    import tty

    if not sys.stdin.isatty():
        yield _sleep
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def pressed(seconds: float) -> bool:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([descriptor], [], [], left)[0]:
                key = os.read(descriptor, 1).decode(errors="replace")
                if key in {"q", "Q", ""}:
                    return True
        return False

    try:
        tty.setcbreak(descriptor)
        yield pressed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
