"""The ways to ask for an action that `against_fastapi.py` holds beside each other.

Each is a running server and a form of request; all are asked over HTTP by the
same client, and all answer the same policy but the floors, which write zeros.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from policyctl.domain.artifacts import Format
from policyctl.domain.golden import Golden
from policyctl.errors import ServerError
from policyctl.services.control import Control, OpenRelease
from policyctl.services.promote import promote
from policyctl.serving.backend_directory import assemble
from policyctl.serving.command import ServerOptions
from policyctl.serving.locate import locate
from policyctl.serving.ports import free_ports
from policyctl.serving.process import TritonProcess
from policyctl_benchmarks.background_server import BackgroundServer
from policyctl_benchmarks.wrk import Request

HERE = Path(__file__).resolve().parent
_TYPES = {"float32": "FP32", "float64": "FP64", "int64": "INT64", "uint8": "UINT8"}


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to ask for an action.

    Attributes:
        name: In the table.
        url: Where.
        form: ``triton-binary``, ``triton-json``, ``json`` or ``raw``.
        pid: The server; its children count as well, as far as they are this variant's.
        instance: The model instance whose stub counts; empty for all children.
        checked: Whether its answers are held against the golden set.
    """

    name: str
    url: str
    form: str
    pid: int
    instance: str = ""
    checked: bool = True

    def request(self, golden: Golden, rows: int, *, output: str) -> Request:
        """The golden set's first rows, again and again where it has fewer."""
        ((name, array),) = golden.observations.items()
        batch = np.ascontiguousarray(np.resize(array, (rows, *array.shape[1:])))
        tensor: dict[str, Any] = {"name": name, "shape": list(batch.shape), "datatype": _TYPES[str(batch.dtype)]}
        match self.form:
            case "json":
                return Request(self.url, _json({"observation": batch.tolist()}), _JSON, rows)
            case "raw":
                return Request(self.url, batch.tobytes(), _RAW, rows)
            case "triton-json":
                body = {"inputs": [{**tensor, "data": batch.ravel().tolist()}], "outputs": [{"name": output}]}
                return Request(self.url, _json(body), _JSON, rows)
        head = _json(
            {
                "inputs": [{**tensor, "parameters": {"binary_data_size": batch.nbytes}}],
                "outputs": [{"name": output, "parameters": {"binary_data": True}}],
            }
        )
        headers = {**_RAW, "Inference-Header-Content-Length": str(len(head))}
        return Request(self.url, head + batch.tobytes(), headers, rows)

    def actions(self, request: Request, *, like: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Ask once, and read the actions."""
        asked = urllib.request.Request(request.url, request.body, dict(request.headers))
        with urllib.request.urlopen(asked, timeout=10) as answer:
            content = answer.read()
            length = answer.headers.get("Inference-Header-Content-Length")
        match self.form:
            case "json":
                found = np.array(json.loads(content)["action"], dtype=like.dtype)
            case "raw":
                found = np.frombuffer(content, dtype=like.dtype)
            case "triton-json":
                found = np.array(json.loads(content)["outputs"][0]["data"], dtype=like.dtype)
            case _:
                found = np.frombuffer(content[int(length) :], dtype=like.dtype)
        return found.reshape(-1, *like.shape[1:])

    def memory_mb(self) -> float:
        """Proportional memory of the processes that it takes, shared pages counted once."""
        server = psutil.Process(self.pid)
        mine = [server]
        for child in server.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if not self.instance or self.instance in child.cmdline():
                    mine.append(child)
        return sum(process.memory_full_info().pss for process in mine) / 1e6


_JSON = {"Content-Type": "application/json"}
_RAW = {"Content-Type": "application/octet-stream"}


def _json(body: object) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def served_variants(control: Control, server: BackgroundServer, release: str, formats: list[Format]) -> list[Variant]:
    """An alias for each format, promoted as any is."""
    found = []
    for chosen in formats:
        alias = "production" if chosen is formats[0] else chosen.value
        promote(control, model="policy", release=release, alias=alias, format=chosen)
        served = "policy" if alias == "production" else f"policy.{alias}"
        url = f"http://{server.endpoint['http']}/v2/models/{served}/infer"
        pid, instance = server.endpoint["pid"], f"{served}_0_0"
        found += [
            Variant(f"policyctl {chosen.value} {form}", url, f"triton-{form}", pid, instance)
            for form in ("binary", "json")
        ]
    return found


@contextlib.contextmanager
def floors(opened: OpenRelease, config: str, folder: Path, native: list[Path]) -> Iterator[list[Variant]]:
    """Triton with backends that write zeros, under the very configuration that the policy has."""
    backends = assemble(locate(), folder / "backends")
    (backends / "floor").mkdir()
    shutil.copy(HERE / "floor" / "model.py", backends / "floor" / "model.py")
    names = ["floor"]
    for library in native:
        name = library.name.removeprefix("libtriton_").removesuffix(".so")
        target = backends / f"{name}_native"
        target.mkdir()
        shutil.copy(library, target / f"libtriton_{target.name}.so")
        names.append(target.name)
    http, grpc, metrics = free_ports(3)
    for name in names:
        (folder / "models" / name / str(opened.published.slot)).mkdir(parents=True)
        text = config.replace(f'backend: "{_backend(config)}"', f'backend: "{name}"')
        (folder / "models" / name / "config.pbtxt").write_text(text)
    options = ServerOptions(
        repository=folder / "models", backend_directory=backends, http_port=http, grpc_port=grpc, metrics_port=metrics
    )
    process = TritonProcess(options)
    process.start()
    try:
        process.wait_live(30.0)
        for name in names:
            load = urllib.request.Request(f"http://127.0.0.1:{http}/v2/repository/models/{name}/load", b"{}")
            urllib.request.urlopen(load, timeout=30).close()
        yield [
            Variant(f"{name} {form}", f"http://127.0.0.1:{http}/v2/models/{name}/infer", f"triton-{form}", process.pid,
                    f"{name}_0_0", checked=False)
            for name in names
            for form in ("binary", "json")
        ]  # fmt: skip
    finally:
        process.stop()


def _backend(config: str) -> str:
    return next(line.split('"')[1] for line in config.splitlines() if line.startswith("backend:"))


@contextlib.contextmanager
def fastapi(archive: Path, workers: int, log: Path) -> Iterator[list[Variant]]:
    """uvicorn with the same policy, on a free port."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "uvicorn", "fastapi_policy:app", "--app-dir", str(HERE), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", str(workers), "--loop", "uvloop", "--http", "httptools"]
    environment = {**os.environ, "POLICY_ARCHIVE": str(archive), "OMP_NUM_THREADS": "1"}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*command, "--no-access-log", "--log-level", "warning"], env=environment, stdout=stream, stderr=stream
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/openapi.json", process, log)
        yield [
            Variant(f"fastapi {workers} {form}", f"http://127.0.0.1:{port}{path}", form, process.pid)
            for form, path in (("json", "/act"), ("raw", "/act-raw"))
        ]
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url, timeout=1).close()
            time.sleep(2.0)  # the second worker answers no later
            return
        time.sleep(0.1)
    raise ServerError(f"uvicorn did not start: {log.read_text()[-2000:]}")
