"""This tree beside the last release: the same policy, each served by its own code, measured in turn on one machine.

    python benchmarks/against_release.py                       # the newest tag v* before this commit
    python benchmarks/against_release.py --base main~20        # or any other commit
    make compare BASE=main~20

Each side gets its own files in a temporary folder, its own interpreter, its
native backend compiled from its own source, and exports, publishes and serves
the same policy by its own `policyctl`. Both servers run side by side; perf_analyzer
asks them in bursts in ABBA order, and the gate `non_inferiority` judges, with
the margins of the settings. What failed is measured once more with both servers
started anew, and only what fails again is failed.

Libraries (Triton, OpenVINO, ...) are the installed ones for both sides.

Exits with 4 where this tree failed, with 1 where it cannot be built or served or
measuring broke, and with 0 otherwise: also where there is nothing to compare
with, or nothing can be told, which it says.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from policyctl.domain.verdict import GateResult, Verdict
from policyctl.errors import GateError, PolicyctlError, UnsupportedError
from policyctl.services.bench import versions
from policyctl.serving.backends.injected import VARIABLE
from policyctl.serving.hardware import detect
from policyctl_benchmarks import release_report
from policyctl_benchmarks.checkouts import (
    commit_of,
    copy,
    is_changed,
    is_shallow,
    last_release,
    unpack,
)
from policyctl_benchmarks.release_report import Comparison, Way
from release_pair import NothingToCompareError, Options, Pair
from release_sides import ReleaseSide

ROOT = Path(__file__).resolve().parent.parent
NAME = "against_release"
WAYS = "openvino:1,openvino:8,onnx:1"


def base_of(root: Path, given: str) -> tuple[str, str]:
    """The commit to compare with, and what to call it.

    Raises:
        UsageError: `given` is no commit.
        NothingToCompareError: None is given, and there is no release.
    """
    if not given:
        try:
            found = last_release(root)
        except UnsupportedError as error:
            raise NothingToCompareError(
                f"this is no git checkout that could name a release ({error.problem})"
            ) from error
        if found is None:
            missing = ", and tags may be missing in this shallow clone (git fetch --tags)" if is_shallow(root) else ""
            raise NothingToCompareError(
                f"there is no release to compare with: no tag v* before this commit{missing};"
                " name a base by hand with --base REF"
            )
        given = found
    commit = commit_of(root, given)
    return commit, f"{given} ({commit[:10]})"


def run(asked: Options) -> Comparison:
    """Compare, within the time limit and a few seconds.

    Raises:
        UsageError: The base is no commit.
    """
    began, begun = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    found = _run(asked, begun + asked.limit_s)
    hardware = detect()
    context = {
        "time": began,
        "duration_s": round(time.monotonic() - begun, 1),
        "command": " ".join(sys.argv),
        "machine": f"{hardware.fingerprint}: {hardware.words()}",
        **found.context,
        "versions": versions(),
    }
    return replace(found, context=context)


def _run(asked: Options, until: float) -> Comparison:
    try:
        commit, base_words = base_of(ROOT, asked.base)
    except NothingToCompareError as error:
        return Comparison(base="", candidate="this tree", stopped=_stopped(Verdict.INCONCLUSIVE, error))
    changed = is_changed(ROOT)
    words = f"{commit_of(ROOT, 'HEAD')[:10]}{' and what is not committed' if changed else ''}"
    found = Comparison(base=base_words, candidate=words)
    with tempfile.TemporaryDirectory(prefix="policyctl-against-") as name, contextlib.ExitStack() as stack:
        variables = {VARIABLE: "1", "POLICYCTL_SERVING__NATIVE": "off"} if asked.slow_us else {}
        base = ReleaseSide(f"base {base_words}", Path(name) / "base", variables=variables)
        candidate = ReleaseSide(f"this tree ({words})", Path(name) / "candidate", variables=variables)
        unpack(ROOT, commit, base.checkout.folder)
        copy(ROOT, candidate.checkout.folder)
        pair = Pair(asked, base, candidate, until)
        try:
            pair.prepare()
            stack.enter_context(pair.serving())
            cautions = pair.cautions()
            compared = tuple(pair.judge())
            backends = {"backend, base": base.backend, "backend, this tree": candidate.backend}
            figures = pair.figures()
        except NothingToCompareError as error:
            return replace(found, stopped=_stopped(Verdict.INCONCLUSIVE, error))
        except PolicyctlError as error:
            return replace(found, stopped=_stopped(Verdict.ERROR, error))
    return replace(found, compared=compared, cautions=cautions, figures=figures, context=backends)


def _stopped(verdict: Verdict, error: PolicyctlError) -> GateResult:
    return GateResult(NAME, verdict, error.problem, {"remedy": error.remedy})


def main() -> int:
    """Run it, write the report; the exit code says only *failed*, or that it broke."""
    given = _arguments()
    say: Callable[[str], None] = lambda words: print(words, file=sys.stderr, flush=True)  # noqa: E731
    try:
        asked = Options(
            base=given.base,
            ways=tuple(dict.fromkeys(Way.parse(part) for part in given.ways.split(","))),
            seconds=given.seconds,
            limit_s=given.limit,
            slow_us=given.slow_us,
            moves=given.moves,
            seed=given.seed,
            say=say,
        )
        found = run(asked)
    except PolicyctlError as error:
        say(f"Error: {error.problem}" + (f"\nNext: {error.remedy}" if error.remedy else ""))
        return error.exit_code
    _write(found, given.report, say)
    print(json.dumps(found.to_json(), indent=1) if given.json else release_report.markdown(found), end="")
    say(f"{found.verdict.upper()}: {found.reason}.")
    return {Verdict.FAILED: GateError.exit_code, Verdict.ERROR: 1}.get(found.verdict, 0)


def _write(found: Comparison, folder: Path, say: Callable[[str], None]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "compare.json").write_text(json.dumps(found.to_json(), indent=1) + "\n")
    (folder / "compare.md").write_text(release_report.markdown(found))
    with contextlib.suppress(UnsupportedError):
        (folder / "compare.html").write_text(release_report.page(found))
    say(f"Wrote {', '.join(str(folder / f'compare.{kind}') for kind in ('md', 'json', 'html'))}.")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="", help="a commit; without it the last release")
    parser.add_argument("--ways", default=WAYS, help="FORMAT:CLIENTS, commas between (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=40.0, help="for one way, at most (default: %(default)g)")
    parser.add_argument("--limit", type=float, default=290.0, help="seconds for everything (default: %(default)g)")
    parser.add_argument("--moves", type=int, default=6, help="promotions to time on each side (default: %(default)d)")
    parser.add_argument("--report", type=Path, default=ROOT / "build" / "compare", help="folder for the report")
    parser.add_argument("--json", action="store_true", help="print the JSON document instead of Markdown")
    parser.add_argument("--seed", type=int, default=time.time_ns() % (1 << 32), help="of the order of the bursts")
    parser.add_argument(
        "--slow-us", type=int, default=0, help="for tests: this tree's Python-based backends spin so long an inference"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
