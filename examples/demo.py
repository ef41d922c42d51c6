"""The main job, end to end, on the real Triton: what `make demo` runs.

It types the same commands as a person would and shows each. Between them it
keeps a load of clients on the server, checks every answer they get, and counts.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from harness.background_load import BackgroundLoad
from harness.background_server import BackgroundServer
from harness.background_server import policyctl as run
from harness.load import LoadOptions, read_expected
from harness.load_records import LoadReport

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
REPOSITORY = ROOT / "model_repository"
BUILD = ROOT / "build" / "demo"
MARK = REPOSITORY / ".policyctl" / "made-by-demo"
MODEL, ENV = "cartpole", "CartPole-v1"
CLIENTS = 8
SECONDS_AROUND_A_MOVE = 1.5

# A pipe has no width, and the tables need one.
console = Console(highlight=False, soft_wrap=True, width=max(110, Console().width))


NOT_PASSED = 4
"""Exit code of a gate that did not pass."""


def policyctl(*arguments: str, show: bool = True, may_exit: int = 0) -> Any:
    """Run one command and give its JSON; a refusal ends the demo, but for the exit code `may_exit`."""
    if show:
        console.print(f"\n[bold cyan]$ policyctl {shlex.join(arguments)}[/]")
    done = run(REPOSITORY, *arguments, "--json")
    if done.returncode not in {0, may_exit}:
        console.print(done.stderr, markup=False)
        sys.exit(f"The demo stopped: policyctl {arguments[0]} exited with {done.returncode}.")
    return json.loads(done.stdout)


def step(number: int, title: str) -> None:
    """A heading."""
    console.print(f"\n[bold]{number}. {title}[/]")


def start_afresh() -> None:
    """An empty repository; one that somebody else filled is left alone."""
    journal = REPOSITORY / ".policyctl" / "journal.jsonl"
    if journal.exists() and not MARK.exists():
        sys.exit(
            f"{REPOSITORY} holds releases that this demo did not publish, and it would have to remove them.\n"
            "Move the folder away, then run make demo again."
        )
    if (REPOSITORY / ".policyctl" / "server.json").exists() and policyctl("status", show=False)["server_live"]:
        sys.exit("A server of an earlier demo is still running. Stop it (Ctrl-C in its terminal), then try again.")
    for folder in REPOSITORY.iterdir() if REPOSITORY.is_dir() else ():
        if folder.is_dir():
            subprocess.run(["chmod", "-R", "u+w", str(folder)], check=True)
            shutil.rmtree(folder)
    shutil.rmtree(BUILD, ignore_errors=True)
    MARK.parent.mkdir(parents=True)
    MARK.touch()


def export_and_publish(release: str) -> None:
    """One release from its weights to its slot."""
    source = HERE / "cartpole" / f"ppo-{release}.zip"
    folder = BUILD / release
    exported = policyctl("export", str(source.relative_to(ROOT)), "--trust-pickle", "-o", str(folder.relative_to(ROOT)))
    for parity in exported["parity"]:
        largest = max(parity["max_abs"].values())
        console.print(
            f"   {parity['format']:<12} agrees on {parity['rows']} observations, largest difference {largest:.1e}"
        )
    published = policyctl("publish", str(folder.relative_to(ROOT)), "--model", MODEL, "--release", release)
    console.print(
        f"   slot {published['slot']}, manifest {published['manifest_digest'][:19]}..., read-only from now on"
    )


def ask_gates(release: str) -> None:
    """Show each gate's verdict; on a busy machine a measurement may be inconclusive, which does not fail the demo."""
    validation = policyctl("validate", MODEL, release, may_exit=NOT_PASSED)
    for gate in validation["gates"]:
        console.print(f"   gate {gate['gate']:<13} {gate['verdict']}: {gate['reason']}")
    if validation["verdict"] in {"failed", "error"}:
        sys.exit(f"The demo stopped: {MODEL} {release} did not pass its gates.")


def load(server: BackgroundServer) -> BackgroundLoad:
    """Clients that ask without pause and check each answer against the release that gave it."""
    expected = {release.name: read_expected(release) for release in sorted(BUILD.iterdir()) if release.is_dir()}
    options = LoadOptions(model=MODEL, url=server.endpoint["grpc"], clients=CLIENTS, deadline_s=30.0, duration_s=600.0)
    return BackgroundLoad(options, expected)


def say_moved(moved: dict[str, Any]) -> None:
    """One line about a promotion or rollback."""
    timings = moved["timings"]
    console.print(
        f"   {moved['alias']}: {moved['from'] or 'nothing'} -> {moved['to']},"
        f" switched in {timings['switch_ms']:.0f} ms, {timings['total_ms']:.0f} ms in all"
    )


def evaluate() -> str:
    """What the served policy earns."""
    interval = policyctl("evaluate", MODEL, "--env", ENV, "--episodes", "20")["served"]["mean"]
    summary = f"{interval['mean']:.1f} ({interval['low']:.1f} .. {interval['high']:.1f})"
    console.print(f"   return {summary} in {ENV}, 20 episodes, 95 % interval")
    return summary


def final_table(parts: list[tuple[str, LoadReport, dict[str, Any]]], bench: list[dict[str, Any]]) -> None:
    """What was counted and measured."""
    table = Table(title="Moves under load", title_justify="left", title_style="bold")
    for column in ("", "requests", "failed", "wrong", "p50 us", "p95 us", "p99 us", "switch ms", "in all ms"):
        table.add_column(column, justify="left" if not column else "right")
    for name, report, moved in parts:
        latencies = (f"{v:.0f}" for v in (report.p50_us, report.p95_us, report.p99_us))
        times = (f"{moved['timings'][key]:.0f}" for key in ("switch_ms", "total_ms"))
        table.add_row(name, str(report.requests), str(report.failed), str(report.wrong), *latencies, *times)
    console.print(table)
    table = Table(title="perf_analyzer, gRPC, batch 1", title_justify="left", title_style="bold")
    for column in ("clients", "p50 us", "p95 us", "p99 us", "infer/s", "requests", "failed"):
        table.add_column(column, justify="right")
    for m in bench:
        numbers = (f"{m[key]:.0f}" for key in ("level", "p50_us", "p95_us", "p99_us", "throughput_per_s"))
        table.add_row(*numbers, str(m["request_count"]), str(m["failed_requests"]))
    console.print(table)


def main() -> None:
    """Run the whole job."""
    os.chdir(ROOT)
    started = time.monotonic()
    start_afresh()
    step(1, "Export a trained policy and publish it as release 1.0.0")
    export_and_publish("1.0.0")
    step(2, "Serve the repository with the embedded Triton, ask the gates, promote")
    console.print("\n[bold cyan]$ policyctl serve &[/]")
    with BackgroundServer(REPOSITORY, BUILD / "serve.log") as server:
        console.print(
            f"   Triton answers on HTTP {server.endpoint['http'] or '(off)'} and gRPC {server.endpoint['grpc']}"
        )
        ask_gates("1.0.0")
        say_moved(policyctl("promote", MODEL, "1.0.0", "--reason", "first release"))
        first = evaluate()
        step(3, f"Publish release 1.1.0 and promote it while {CLIENTS} clients ask without pause")
        export_and_publish("1.1.0")
        with load(server) as running:
            time.sleep(SECONDS_AROUND_A_MOVE)
            promoted = policyctl("promote", MODEL, "1.1.0", "--reason", "balances longer")
            time.sleep(SECONDS_AROUND_A_MOVE)
        say_moved(promoted)
        promotion = running.report
        second = evaluate()
        step(4, "Measure with perf_analyzer")
        bench = policyctl("bench", MODEL, "--concurrency", "1,8")["points"]
        step(5, "Roll back while the clients ask")
        with load(server) as running:
            time.sleep(SECONDS_AROUND_A_MOVE)
            back = policyctl("rollback", MODEL, "--reason", "the demo wants to see it")
            time.sleep(SECONDS_AROUND_A_MOVE)
        say_moved(back)
        rollback = running.report
    step(6, "Verify every byte, now that the server has stopped")
    findings = policyctl("verify")["findings"]
    console.print(f"   {len(findings)} of {len(findings)} intact")
    console.print()
    final_table([("promotion to 1.1.0", promotion, promoted), ("rollback to 1.0.0", rollback, back)], bench)
    console.print(f"Return in {ENV}: release 1.0.0 earned {first}, release 1.1.0 earned {second}.")
    console.print(f"Took {time.monotonic() - started:.0f} s.")
    console.print(
        "\n[bold]Next[/], type in this folder:\n"
        "  .venv/bin/policyctl serve                      # the same repository, on ports 8000 to 8002\n"
        "  .venv/bin/policyctl status                     # in another terminal: who answers\n"
        f"  .venv/bin/policyctl promote {MODEL} 1.1.0\n"
        f"  .venv/bin/policyctl history {MODEL}\n"
        "  .venv/bin/policyctl --help"
    )
    bad = promotion.failed + promotion.wrong + rollback.failed + rollback.wrong
    sys.exit(f"{bad} requests failed or were wrong: that must not be." if bad else 0)


if __name__ == "__main__":
    main()
