"""The command that shows the main job: demo."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyctl.cli import options
from policyctl.cli.call import Call
from policyctl.errors import PolicyctlError

if TYPE_CHECKING:
    from policyctl.demo.job import DemoResult


@options.command("repository")
def demo(
    call: Call,
    remove: Annotated[bool, typer.Option("--remove", help="Remove what an earlier demo left here, and end.")] = False,
) -> None:
    """Show the main job on two small policies: export, serve, promote under load, roll back.

    It fills model_repository and build/demo in this folder, and leaves them, so
    that you can go on with them. It takes one to two minutes, and needs the
    embedded Triton, torch and Stable-Baselines3: pip install 'policyctl[serve,sb3]'.
    Exits with 1 if a request failed or was answered wrongly.

    Examples:
        policyctl demo
        policyctl demo --remove
    """
    from policyctl.demo.job import Demo
    from policyctl.demo.place import Place

    place = Place(call.settings().repository)
    if remove:
        removed = [str(path) for path in Demo(place, call.say).remove()]
        call.data({"removed": removed}, words=f"Removed what a demo left in {' and '.join(removed) or 'no folder'}.")
        return
    result = Demo(place, call.say).run()
    _show(call, result)
    here, program = place.repository, _program()
    call.say(
        f"\nLeft here: {here} with two releases, {place.build} with policies, exports and the server's log."
        f" {program} demo --remove removes both.\n\nNext, type in this folder:\n"
        f"  {program} serve                      # the same repository, on ports 8000 to 8003\n"
        f"  {program} status                     # in another terminal: who answers\n"
        f"  {program} promote cartpole 1.1.0\n"
        f"  {program} history cartpole\n"
        f"  {program} --help"
    )
    if result.bad:
        call.end_with(PolicyctlError(f"{result.bad} requests failed or were wrong, expected none"))


def _show(call: Call, result: DemoResult) -> None:
    from policyctl.demo.job import ENV, in_words

    rows = [
        (
            *(move.name, move.load.requests, move.load.failed, move.load.wrong),
            *(f"{v:.0f}" for v in (move.load.p50_us, move.load.p95_us, move.load.p99_us)),
            *(f"{v:.0f}" for v in (move.switch_ms, move.total_ms)),
        )
        for move in result.moves
    ]
    columns = ("", "requests", "failed", "wrong", "p50 us", "p95 us", "p99 us", "switch ms", "in all ms")
    call.table(result, "Moves under load", columns, rows)
    numbers = ("level", "p50_us", "p95_us", "p99_us", "throughput_per_s", "request_count", "failed_requests")
    titles = ("clients", "p50 us", "p95 us", "p99 us", "infer/s", "requests", "failed")
    points = [[f"{point[name]:.0f}" for name in numbers] for point in result.bench]
    call.table(None, "perf_analyzer, gRPC, batch 1", titles, points)
    earned = ", ".join(f"release {name} earned {in_words(value)}" for name, value in result.returns.items())
    call.say(f"\nReturn in {ENV}: {earned}.\nTook {result.took_s:.0f} s.")


def _program() -> str:
    """How a person types this very policyctl."""
    own = Path(sys.executable).with_name("policyctl")
    found = shutil.which("policyctl")
    if not own.is_file() or (found is not None and Path(found).resolve() == own.resolve()):
        return "policyctl"
    return str(own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own)
