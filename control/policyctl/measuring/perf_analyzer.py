"""Drive NVIDIA's perf_analyzer, within a time that is known beforehand.

It always takes three windows a level. Its own rule of stability judges the last
three, and gave no result in half of the configurations tried. So the rule gets a
limit that nothing exceeds, and the statistics are ours to do. (It calls fewer
than three windows unstable whatever the limit is, and never takes more.) Each
level runs as a separate process. Against a server that was stopped
perf_analyzer waits for ever, so every run is ended at its limit.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import numpy as np

from policyctl.domain.golden import Golden
from policyctl.errors import ServerError, UnsupportedError, UsageError
from policyctl.measuring.measurement import LoadMode, Measurement, Point, SharedMemory, from_files
from policyctl.measuring.processes import Finished, run_bounded

WINDOWS = 3
"""What perf_analyzer judges stability on."""

_STABILITY_PERCENT = 1_000_000
_EXPORT_BYTES = 1 << 14
"""Of a request: above it requests are not written out one by one."""
_LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What to ask of which model.

    Attributes:
        model: The Triton model (`policyctl.domain.names.served_name`).
        url: ``host:port`` of the endpoint of the point's protocol.
        interval_ms: Length of one window; there are `WINDOWS`.
    """

    model: str
    url: str
    point: Point
    warmup_requests: int = 100
    interval_ms: int = 1000
    time_limit_s: float = 120.0

    def __post_init__(self) -> None:
        for value, name in (
            (self.point.level, "the level of load"),
            (self.point.batch_size, "batch_size"),
            (self.interval_ms, "interval_ms"),
            (self.time_limit_s, "time_limit_s"),
        ):
            if value <= 0:
                raise UsageError(f"{name} is {value}, expected more than 0")
        if self.warmup_requests < 0:
            raise UsageError(f"warmup_requests is {self.warmup_requests}, expected 0 or more")


@dataclass(frozen=True, slots=True)
class PerfAnalyzer:
    """The program, ready to ask for one set of observations.

    Attributes:
        library_path: Where the libraries that it needs are; see `link_libraries`.
        data: The observations, as `input_data_json` writes them.
        finite: Whether all answers are finite. perf_analyzer 2.51 writes an empty export where one is not, as
            the score of a choice that a mask rules out.
    """

    binary: Path
    library_path: Path
    data: Path
    row_bytes: int
    finite: bool = True

    @classmethod
    @contextlib.contextmanager
    def asking(cls, golden: Golden) -> Iterator[PerfAnalyzer]:
        """Ready to ask for the observations of `golden`, for as long as the block runs.

        Raises:
            UnsupportedError: perf_analyzer cannot run here.
        """
        with tempfile.TemporaryDirectory(prefix="policyctl-bench-") as name:
            data = Path(name) / "observations.json"
            data.write_text(input_data_json(golden))
            row_bytes = sum(a.dtype.itemsize * int(np.prod(a.shape[1:])) for a in golden.observations.values())
            finite = all(np.isfinite(array).all() for array in golden.outputs.values())
            yield cls(locate_perf_analyzer(), link_libraries(Path(name) / "libraries"), data, row_bytes, finite)

    def measure(self, load: Load) -> Measurement:
        """Measure one load.

        Raises:
            ServerError: The server refused, broke off or did not answer in time,
                or the time limit was reached; with what perf_analyzer said last.
            UnsupportedError: perf_analyzer cannot run on this machine.
        """
        until = time.monotonic() + load.time_limit_s
        with tempfile.TemporaryDirectory(prefix="policyctl-bench-") as scratch:
            # The export came out empty once in some sixty runs on a busy machine, once cut off after 64 KiB,
            # and perf_analyzer said nothing of it: it is run once more.
            for number in range(2):
                report, export = Path(scratch) / f"{number}.csv", Path(scratch) / f"{number}.json"
                finished = self._run(self.command(load, report, export), until - time.monotonic())
                _check(finished, load, report)
                exported = export.read_text(encoding="utf-8") if export.is_file() else ""
                if not self._is_exact(load) or exported.rstrip().endswith("}"):
                    return from_files(
                        load.point,
                        csv_text=report.read_text(encoding="utf-8"),
                        export_text=exported or None,
                        output=finished.stdout,
                        windows=WINDOWS,
                        interval_ms=load.interval_ms,
                    )
        raise ServerError(f"perf_analyzer wrote no whole profile; it said last:\n{finished.tail()}")

    def command(self, load: Load, report: Path, export: Path) -> list[str]:
        """The command line that measures a load."""
        point = load.point
        arguments = [str(self.binary), "-m", load.model, "-u", load.url, "-i", point.protocol.value]
        arguments += ["-b", str(point.batch_size), "-p", str(load.interval_ms)]
        arguments += ["-s", str(_STABILITY_PERCENT), "-r", str(WINDOWS), "-f", str(report)]
        if point.mode is LoadMode.CONCURRENCY:
            arguments += ["--concurrency-range", f"{int(point.level)}:{int(point.level)}:1"]
        else:
            arguments += ["--request-rate-range", f"{point.level:g}:{point.level:g}:1"]
        # At a rate, perf_analyzer 2.51 sometimes waits for ever for the threads of its warm-up
        # (LoadManager::WaitForWarmupAndCleanup), while the server waits for requests.
        if load.warmup_requests and point.mode is LoadMode.CONCURRENCY:
            arguments += ["--warmup-request-count", str(load.warmup_requests)]
        arguments += ["--input-data", str(self.data)]
        if point.shared_memory is not SharedMemory.NONE:
            arguments += ["--shared-memory", point.shared_memory.value]
        if self._is_exact(load):
            arguments += ["--profile-export-file", str(export)]
        return arguments

    def _is_exact(self, load: Load) -> bool:
        """Whether every request is written out; else percentiles come rounded.

        Images would be written as text.
        """
        return self.finite and self.row_bytes * load.point.batch_size <= _EXPORT_BYTES

    def _run(self, command: Sequence[str], time_limit_s: float) -> Finished:
        inherited = os.environ.get("LD_LIBRARY_PATH", "")
        path = f"{self.library_path}:{inherited}" if inherited else str(self.library_path)
        try:
            return run_bounded(command, time_limit_s=time_limit_s, environment={**os.environ, "LD_LIBRARY_PATH": path})
        except OSError as error:
            raise UnsupportedError(
                f"{self.binary} cannot be started: {error.strerror}",
                remedy="Install it: pip install tritonclient==2.51.0",
            ) from error


def _check(finished: Finished, load: Load, report: Path) -> None:
    place = f"{load.point.mode} {load.point.level:g} of {load.model}"
    if finished.timed_out:
        raise ServerError(
            f"perf_analyzer did not end in time at {place} ({finished.duration_s:.1f} s){_said(finished)}",
            remedy="Is the server stopped or overloaded? Otherwise give more time (--time-limit).",
        )
    if "error while loading shared libraries" in finished.stderr:
        raise UnsupportedError(
            f"perf_analyzer cannot run here: {finished.tail(lines=2)}",
            remedy="Give library_path=link_libraries(folder), or install libb64-0d and the CUDA runtime.",
        )
    if finished.status != 0 or not report.is_file():
        raise ServerError(
            f"perf_analyzer ended with {finished.status} at {place}; it said last:\n{finished.tail()}",
            remedy=f"Check that {load.model} is served at {load.url} and takes this input.",
        )


def _said(finished: Finished) -> str:
    """What it said before its time was up, without its list of settings, which is all that it mostly is."""
    own = re.sub(r"\*\*\* Measurement Settings \*\*\*\n(?:  .*\n?)*", "", finished.stdout)
    output = replace(finished, stdout=own).tail()
    return f"; it said last:\n{output}" if output else ""


def locate_perf_analyzer() -> Path:
    """Where perf_analyzer is installed.

    Raises:
        UnsupportedError: Nowhere that this interpreter knows.
    """
    for folder in (Path(sysconfig.get_path("scripts")), Path(sys.executable).parent):
        if (program := folder / "perf_analyzer").is_file():
            return program
    if (elsewhere := shutil.which("perf_analyzer")) is not None:
        return Path(elsewhere)
    raise UnsupportedError("perf_analyzer is not installed", remedy="Install it: pip install tritonclient==2.51.0")


def link_libraries(folder: Path) -> Path:
    """Give the libraries that perf_analyzer needs their plain names, in `folder`.

    They come with Triton's wheel under hashed names. Only links are made, and
    links that are there already are kept.

    Raises:
        UnsupportedError: Triton's wheel is not installed, or has none of them.
    """
    try:
        source = Path(str(metadata.distribution("nvidia-pytriton").locate_file("nvidia_pytriton.libs")))
    except metadata.PackageNotFoundError:
        raise UnsupportedError(
            "the libraries that perf_analyzer needs come with nvidia-pytriton, which is not installed",
            remedy="Install it: pip install 'policyctl[serve]'; or install libb64-0d and the CUDA runtime.",
        ) from None
    folder.mkdir(parents=True, exist_ok=True)
    for name, pattern in _LIBRARIES.items():
        libraries = sorted(source.glob(pattern))
        if not libraries:
            raise UnsupportedError(f"{source} has no {pattern}, which perf_analyzer needs")
        with contextlib.suppress(FileExistsError):
            (folder / name).symlink_to(libraries[-1])
    return folder


def input_data_json(golden: Golden) -> str:
    """perf_analyzer's input file with the observations of `golden`, one a request in turn."""
    steps = [
        {
            name: {"content": _content(array[row]), "shape": list(array.shape[1:])}
            for name, array in golden.observations.items()
        }
        for row in range(golden.rows)
    ]
    return json.dumps({"data": steps})


def _content(item: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> list[object]:
    flat = item.reshape(-1)
    # float32 is written with its own shortest digits: as a float64 it would be twice as long.
    return [json.loads(str(value)) for value in flat] if flat.dtype.kind == "f" else flat.tolist()
