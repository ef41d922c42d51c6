"""`policyctl record` beside a Triton that somebody else runs, from a trace folder that both see."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from embedded import PATIENCE_S, exported

from policyctl.client import PolicyClient
from policyctl.services.control import Control
from policyctl.services.experiments.record import RecordOptions, record
from policyctl.services.releases.publish import publish
from policyctl.services.rollout.promote import promote
from policyctl.serving.backend_directory import assemble
from policyctl.serving.locate import locate
from policyctl.serving.ports import free_ports
from policyctl.serving.process import ServerOptions, TritonProcess
from policyctl.settings import load

pytestmark = pytest.mark.server

KEY = "key-of-somebody-else"


def test_traffic_of_somebody_elses_triton_is_recorded_from_a_folder_that_both_see(tmp_path: Path) -> None:
    """The repository holds no trace, the folder none afterwards; who recorded needs the key and nothing else."""
    traces = tmp_path / "traces"
    traces.mkdir(mode=0o700)
    root = tmp_path / "model_repository"
    root.mkdir()
    http, grpc, metrics = free_ports(3)
    options = ServerOptions(
        root,
        assemble(locate(), tmp_path / "backends"),
        http_port=http,
        grpc_port=grpc,
        metrics_port=metrics,
        api_key=KEY,
        trace_file=traces / "trace",
    )
    control = Control.of(
        load(repository=root, server={"url": f"127.0.0.1:{grpc}", "api_key": KEY}, tracing={"unguarded": True})
    )
    publish(control, exported(1), model="walker", release="1.0.0")
    server, done = TritonProcess(options), threading.Event()
    try:
        server.start()
        server.wait_live(PATIENCE_S)
        promote(control, model="walker", release="1.0.0", alias="production")

        def ask() -> None:
            with PolicyClient("walker", url=f"127.0.0.1:{grpc}", deadline_s=PATIENCE_S) as client:
                while not done.wait(0.01):
                    client.act(np.zeros(4, np.float32))

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            wanted = RecordOptions(count=20, seconds=PATIENCE_S)
            found = record(control, wanted, model="walker", alias="production", output=tmp_path / "walker.npz")
        finally:
            done.set()
            asking.join()
    finally:
        server.stop()
    assert found.rows == 20
    assert list(traces.iterdir()) == []
