"""Drive NVIDIA's perf_analyzer, within a time that is known beforehand.

It always takes three windows a level. Its own rule of stability judges the last
three, and gave no result in half of the configurations tried. So the rule gets a
limit that nothing exceeds, and the statistics are ours to do. (It calls fewer
than three windows unstable whatever the limit is, and never takes more.) Levels
run one after the other, each as a separate process. Against a server that was
stopped perf_analyzer waits for ever, so every run is ended at its limit.
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
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib import metadata
from pathlib import Path

import numpy as np

from policyctl.client import Protocol
from policyctl.domain.golden import Golden
from policyctl.errors import ServerError, UnsupportedError, UsageError
from policyctl.measuring.measurement import LoadMode, Measurement, from_files
from policyctl.measuring.processes import Finished, run_bounded

WINDOWS = 3
"""What perf_analyzer judges stability on."""

_STABILITY_PERCENT = 1_000_000
_LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}


class SharedMemory(StrEnum):
    """How tensors travel between perf_analyzer and a server on the same machine."""

    NONE = "none"
    SYSTEM = "system"


class OverTimeError(ServerError):
    """perf_analyzer did not end within its time limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PerfAnalyzerOptions:
    """What to measure.

    Attributes:
        model: The Triton model (`policyctl.domain.names.served_name`).
        url: ``host:port`` of the protocol's endpoint.
        protocol: gRPC or HTTP.
        concurrency: Levels, each the number of requests always under way.
        request_rate: Levels instead of those, requests a second each.
        batch_size: Observations in one request.
        warmup_requests: Requests before each level's first window.
        measurement_interval_ms: Length of one window; there are `WINDOWS` a level.
        input_data: What `input_data_json` wrote; None sends random bits, which
            are not observations (1e31, denormals), so it is for smoke tests.
        time_limit_s: For all levels together.
        shared_memory: How tensors travel.
        exact: Percentiles from every request. The export that this needs holds
            all tensors as text: say False for image observations.
    """

    model: str
    url: str
    protocol: Protocol = Protocol.GRPC
    concurrency: tuple[int, ...] = (1,)
    request_rate: tuple[float, ...] = ()
    batch_size: int = 1
    warmup_requests: int = 100
    measurement_interval_ms: int = 1000
    input_data: Path | None = None
    time_limit_s: float = 120.0
    shared_memory: SharedMemory = SharedMemory.NONE
    exact: bool = True

    def __post_init__(self) -> None:
        levels = self.request_rate or self.concurrency
        if not levels or any(level <= 0 for level in levels):
            raise UsageError(f"levels of load are {levels}, expected positive ones")
        for name in ("batch_size", "measurement_interval_ms", "time_limit_s"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{name} is {getattr(self, name)}, expected more than 0")
        if self.warmup_requests < 0:
            raise UsageError(f"warmup_requests is {self.warmup_requests}, expected 0 or more")
        if self.input_data is not None and not self.input_data.is_file():
            raise UsageError(f"input data {self.input_data} is not a file", remedy="Write it: input_data_json().")

    @property
    def mode(self) -> LoadMode:
        """What the levels count."""
        return LoadMode.REQUEST_RATE if self.request_rate else LoadMode.CONCURRENCY

    @property
    def levels(self) -> tuple[float, ...]:
        """In the order in which they are measured."""
        return self.request_rate or self.concurrency


def run(options: PerfAnalyzerOptions, *, binary: Path, library_path: Path) -> tuple[Measurement, ...]:
    """Measure every level of `options`, in order.

    Args:
        options: What to measure.
        binary: perf_analyzer; see `locate_perf_analyzer`.
        library_path: Where the libraries that it needs are; see `link_libraries`.

    Raises:
        OverTimeError: The time limit was reached.
        ServerError: The server refused, broke off or did not answer in time;
            with what perf_analyzer said last.
        UnsupportedError: perf_analyzer cannot run on this machine.
    """
    until = time.monotonic() + options.time_limit_s
    with tempfile.TemporaryDirectory(prefix="policyctl-bench-") as scratch:
        return tuple(
            _measure(
                options,
                level,
                binary=binary,
                library_path=library_path,
                scratch=Path(scratch) / str(index),
                time_limit_s=until - time.monotonic(),
            )
            for index, level in enumerate(options.levels)
        )


def _measure(
    options: PerfAnalyzerOptions,
    level: float,
    *,
    binary: Path,
    library_path: Path,
    scratch: Path,
    time_limit_s: float,
    repeats: int = 1,
) -> Measurement:
    scratch.mkdir()
    report, export = scratch / "report.csv", scratch / "profile.json"
    environment = dict(os.environ)
    inherited = environment.get("LD_LIBRARY_PATH", "")
    environment["LD_LIBRARY_PATH"] = f"{library_path}:{inherited}" if inherited else str(library_path)
    try:
        finished = run_bounded(
            command(options, level, binary=binary, report=report, export=export),
            time_limit_s=time_limit_s,
            environment=environment,
        )
    except OSError as error:
        raise UnsupportedError(
            f"{binary} cannot be started: {error.strerror}", remedy="Install it: pip install 'tritonclient[all]'"
        ) from error
    _check(finished, options, level, report)
    exported = export.read_text(encoding="utf-8") if options.exact and export.is_file() else ""
    if options.exact and not exported.rstrip().endswith("}"):
        if repeats == 0:
            raise ServerError(f"perf_analyzer wrote no whole profile; it said last:\n{finished.tail()}")
        # Empty once in some sixty runs on a busy machine, once cut off after 64 KiB, and it said nothing of it.
        return _measure(
            options,
            level,
            binary=binary,
            library_path=library_path,
            scratch=scratch / "again",
            time_limit_s=time_limit_s - finished.duration_s,
            repeats=repeats - 1,
        )
    return from_files(
        csv_text=report.read_text(encoding="utf-8"),
        export_text=exported or None,
        output=finished.stdout,
        mode=options.mode,
        level=level,
        batch_size=options.batch_size,
        windows=WINDOWS,
        interval_ms=options.measurement_interval_ms,
    )


def command(options: PerfAnalyzerOptions, level: float, *, binary: Path, report: Path, export: Path) -> list[str]:
    """The command line that measures one level."""
    arguments = [str(binary), "-m", options.model, "-u", options.url, "-i", options.protocol.value]
    arguments += ["-b", str(options.batch_size), "-p", str(options.measurement_interval_ms)]
    arguments += ["-s", str(_STABILITY_PERCENT), "-r", str(WINDOWS), "-f", str(report)]
    if options.mode is LoadMode.CONCURRENCY:
        arguments += ["--concurrency-range", f"{int(level)}:{int(level)}:1"]
    else:
        arguments += ["--request-rate-range", f"{level:g}:{level:g}:1"]
    if options.warmup_requests:
        arguments += ["--warmup-request-count", str(options.warmup_requests)]
    if options.input_data is not None:
        arguments += ["--input-data", str(options.input_data)]
    if options.shared_memory is not SharedMemory.NONE:
        arguments += ["--shared-memory", options.shared_memory.value]
    if options.exact:
        arguments += ["--profile-export-file", str(export)]
    return arguments


def _check(finished: Finished, options: PerfAnalyzerOptions, level: float, report: Path) -> None:
    if finished.timed_out:
        raise OverTimeError(
            f"perf_analyzer did not end in time at {options.mode} {level:g} of {options.model}"
            f" ({finished.duration_s:.1f} s){_said(finished)}",
            remedy="Is the server stopped or overloaded? Otherwise give more time (--time-limit).",
        )
    if "error while loading shared libraries" in finished.stderr:
        raise UnsupportedError(
            f"perf_analyzer cannot run here: {finished.tail(lines=2)}",
            remedy="Give library_path=link_libraries(folder), or install libb64-0d and the CUDA runtime.",
        )
    if finished.status != 0 or not report.is_file():
        raise ServerError(
            f"perf_analyzer ended with {finished.status} at {options.mode} {level:g} of {options.model};"
            f" it said last:\n{finished.tail()}",
            remedy=f"Check that {options.model} is served at {options.url} and takes this input.",
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
    raise UnsupportedError(
        "perf_analyzer is not installed", remedy="Install it: pip install 'tritonclient[all]==2.51.0'"
    )


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
