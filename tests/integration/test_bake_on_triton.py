"""A promotion that is watched, on the real Triton under load: what does harm goes back by itself, a good one stays."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from embedded import PATIENCE_S, Embedded, allow_faults, embedded, exported, wait_for

from faults import SPIN_US
from policyctl.demo.background_server import COMMAND
from policyctl.domain.contract import Contract
from policyctl.domain.golden import Golden
from policyctl.measuring.background_load import BackgroundLoad
from policyctl.measuring.load import LoadOptions, read_expected
from policyctl.serving.ports import free_ports

pytestmark = pytest.mark.server

# OpenVINO clamps what is no number to the lowest action, and would not refuse it.
ONNX = ("--format", "onnx")


def _brittle(folder: Path) -> Path:
    """A policy whose answers are no numbers where the first feature is above 1: inside the bounds it is fine."""
    import gymnasium as gym
    import torch

    from policyctl_exporters import export_policy

    class Brittle(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(x[:, :2]) + 1e-30 * torch.sqrt(1.0 - x[:, :1])

    spaces = {"observation_space": gym.spaces.Box(-1, 1, (4,)), "action_space": gym.spaces.Box(-1, 1, (2,))}
    export_policy(Brittle(), folder, golden_rows=16, **spaces)
    return folder


@pytest.fixture(scope="module")
def baked(tmp_path_factory) -> Iterator[Embedded]:
    """1.0.0 in production; 1.1.0 is as good, 1.2.0 fails on observations that its golden set does not hold."""
    folder = tmp_path_factory.mktemp("baked")
    with pytest.MonkeyPatch.context() as patch, embedded(folder) as server:
        allow_faults(patch)
        patch.setenv("POLICYCTL_SERVING__NATIVE", "off")  # the native backend cannot be slowed down
        patch.setenv("POLICYCTL_BAKE__BEFORE_S", "6")
        server.publish("1.0.0", 1)
        server.publish("1.1.0", 1)
        server.run("publish", str(_brittle(folder / "brittle")), "--model", "walker", "--release", "1.2.0")
        server.start()
        server.run("promote", "walker", "1.0.0")
        yield server


@contextmanager
def _asked(server: Embedded, *, beyond: bool = False) -> Iterator[BackgroundLoad]:
    """Two clients, fifty times a second each; `beyond`, with a feature that is outside the policy's bounds."""
    expected = read_expected(exported(1))
    if beyond:
        expected = _beyond(expected)
    options = LoadOptions(
        model="walker", url=server.endpoint["grpc"], clients=2, rate_per_client=50, deadline_s=60, duration_s=3600
    )
    with BackgroundLoad(options, dict.fromkeys(("1.0.0", "1.1.0", "1.2.0"), expected)) as load:
        yield load


def _beyond(expected):
    """The golden set with one row in four out of bounds; what is answered is not what this test looks at."""
    golden: Golden = expected.golden
    observations = {name: array.copy() for name, array in golden.observations.items()}
    for array in observations.values():
        array[::4, 0] = 5.0
    contract: Contract = expected.contract
    return type(expected)(contract=contract, golden=Golden(observations, golden.outputs, golden.tolerance))


def _promoted(server: Embedded, release: str, *more: str, code: int) -> dict:
    done = server.run("promote", "walker", release, *more, "--json", check=False)
    assert done.returncode == code, done.stderr + server.log_text
    return json.loads(done.stdout)["bake"]


def test_a_slow_release_goes_back_by_itself(baked, monkeypatch) -> None:
    """A tenth of a second, which no other work hides: taken back before its time, with evidence; no request is lost."""
    with _asked(baked) as load:
        monkeypatch.setenv("POLICYCTL_SERVING__PARAMETERS", json.dumps({SPIN_US: "100000"}))
        slow = _promoted(baked, "1.1.0", "--bake", "40", code=7)
    failed = {check["check"] for check in slow["checks"] if check["verdict"] == "failed"}
    assert failed
    assert failed <= {"latency", "tail"}
    (tail,) = (check for check in slow["checks"] if check["check"] == "tail")
    assert tail["p99_us"] > 100_000 and tail["incumbent_p99_us"] > 0, tail
    assert baked.answered_by() == "1.0.0"
    assert load.report.failed == 0, load.report
    (record,) = [r for r in baked.json("history", "walker") if r.get("evidence") == slow["evidence"]]
    assert (record["gate"], record["verdict"], record["then"]) == ("bake", "failed", "rollback")


def test_a_bake_whose_process_is_killed_is_carried_out_by_the_server(baked) -> None:
    """The release fails on live observations; SIGKILL of `promote` does not save it."""
    before = baked.answered_by()
    with _asked(baked, beyond=True):
        environment = {**os.environ, "POLICYCTL_REPOSITORY": str(baked.root), "POLICYCTL_BAKE__LATENCY_RATIO": "1000"}
        process = subprocess.Popen([*COMMAND, "promote", "walker", "1.2.0", "--bake", "60", *ONNX], env=environment)
        wait_for(lambda: baked.control.repository.journal.state().bakes)
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE_S)
        wait_for(lambda: baked.answered_by() == before, every_s=0.5)
    (*_, record) = [r for r in baked.json("history", "walker") if r.get("gate") == "bake"]
    assert (record["release"], record["verdict"]) == ("1.2.0", "failed")
    assert "requests failed" in record["reason"]
    baked.has_said("Nobody carries out the bake of walker")


@pytest.fixture(scope="module", autouse=True)
def prometheus(baked, tmp_path_factory) -> Iterator[str]:
    """The real Prometheus, scraping the server every second; empty where it is not installed.

    It takes seconds to begin, so it is there from the start.
    """
    binary, folder, target = shutil.which("prometheus"), tmp_path_factory.mktemp("scraped"), baked.endpoint["metrics"]
    if binary is None:
        yield ""
        return
    (port,) = free_ports(1)
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
        f"scrape_configs: [{{job_name: triton, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    url = f"http://127.0.0.1:{port}"
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                binary,
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        yield url
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _scrapes(url: str) -> int:
    """How often the incumbent was scraped lately."""
    query = urllib.parse.quote('count_over_time(nv_inference_request_success{model="walker"}[10s])')
    try:
        with urllib.request.urlopen(f"{url}/api/v1/query?query={query}", timeout=1) as answer:
            found = json.load(answer)["data"]["result"]
    except OSError:
        return 0
    return max((int(series["value"][1]) for series in found), default=0)


def test_a_real_prometheus_tells_which_release_does_harm(baked, prometheus, monkeypatch) -> None:
    """What Triton exports and Prometheus scrapes keeps a good release, and takes back one that fails requests."""
    if not prometheus:
        pytest.skip("prometheus is not installed: apt-get install prometheus")
    monkeypatch.setenv("POLICYCTL_BAKE__PROMETHEUS", prometheus)
    monkeypatch.setenv("POLICYCTL_BAKE__LATENCY_RATIO", "1000")  # how busy the machine is does not matter here
    with _asked(baked, beyond=True):
        wait_for(lambda: _scrapes(prometheus) > 5)  # for as long as a bake looks back
        # 10 s are too few to prove one failure in a hundred wrong.
        good = _promoted(baked, "1.1.0", "--bake", "10", "--on-inconclusive", "keep", code=0)
        harmful = _promoted(baked, "1.2.0", "--bake", "60", *ONNX, code=7)
    assert good["source"] == harmful["source"] == f"Prometheus at {prometheus.removeprefix('http://')}"
    assert good["verdict"] in {"passed", "inconclusive"}
    assert (good["checks"][0]["failed"], good["checks"][0]["requests"] > 50) == (0, True)
    assert harmful["checks"][0]["verdict"] == "failed", harmful
    assert baked.answered_by() == "1.1.0"
