"""Two ways to let an alias name a release: what each costs a request, and how fast it switches.

    python benchmarks/alias_ways.py --rounds 6

``specific``: the alias is the model itself under ``version_policy: specific``
(what policyctl does). ``ensemble``: the alias is a one-step ensemble over
versions that are both loaded. Measured with perf_analyzer on one server in
interleaved rounds; only ratios within one run mean anything.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from policyctl.services.control import Control
from policyctl.services.promote import promote, rollback
from policyctl.settings import load as load_settings
from policyctl_benchmarks.background_server import BackgroundServer
from policyctl_benchmarks.perf_analyzer import (
    PerfAnalyzerOptions,
    input_data_json,
    link_libraries,
    locate_perf_analyzer,
    run,
)
from promotions import published

CLIENTS = (1, 8, 32)


def ensemble_text(config: model_config_pb2.ModelConfig, version: int) -> str:
    """A one-step ensemble that passes everything to one version of ``cartpole``."""
    outer = model_config_pb2.ModelConfig(platform="ensemble", max_batch_size=config.max_batch_size)
    outer.input.extend(config.input)
    outer.output.extend(config.output)
    step = outer.ensemble_scheduling.step.add(model_name="cartpole", model_version=version)
    for tensor in config.input:
        step.input_map[tensor.name] = tensor.name
    for tensor in config.output:
        step.output_map[tensor.name] = tensor.name
    return str(text_format.MessageToString(outer))


def main() -> None:
    """Run it and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--switches", type=int, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="policyctl-alias-") as name:
        folder = Path(name)
        control = Control.of(load_settings(repository=folder / "model_repository"))
        published(control, folder)
        with BackgroundServer(control.repository.root, folder / "serve.log") as server:
            promote(control, model="cartpole", release="1.0.0", alias="production")
            promote(control, model="cartpole", release="1.1.0", alias="production")
            report_requests(control, server, folder, given.rounds)
            report_switches(control, given.switches)


def add_ensemble(control: Control, version: int) -> None:
    """Write and load the ensemble."""
    root = control.repository.root
    config = text_format.Parse((root / "cartpole" / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    (root / "cartpole-ensemble" / "1").mkdir(parents=True, exist_ok=True)
    control.repository.configure("cartpole-ensemble", ensemble_text(config, version))
    with control.triton() as client:
        client.load("cartpole-ensemble", 1)


def report_requests(control: Control, server: BackgroundServer, folder: Path, rounds: int) -> None:
    """Latency and throughput of both ways, in interleaved rounds."""
    from policyctl.services.control import open_release

    opened = open_release(control.repository, control.repository.journal.state().release("cartpole", "1.1.0"))
    data = folder / "observations.json"
    data.write_text(input_data_json(opened.golden))
    add_ensemble(control, opened.published.slot)
    libraries, binary = link_libraries(folder / "libraries"), locate_perf_analyzer()
    seen: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for number in range(rounds):
        names = ("cartpole", "cartpole-ensemble") if number % 2 == 0 else ("cartpole-ensemble", "cartpole")
        for clients in CLIENTS:
            for model in names:
                options = PerfAnalyzerOptions(
                    model=model,
                    url=server.endpoint["grpc"],
                    concurrency=(clients,),
                    input_data=data,
                    exact=False,
                )
                (found,) = run(options, binary=binary, library_path=libraries)
                seen.setdefault((clients, model), []).append((found.p50_us, found.throughput_per_s))
    print("| clients | specific p50 us | ensemble p50 us | ratio | specific infer/s | ensemble infer/s | ratio |")
    print("|---|---|---|---|---|---|---|")
    for clients in CLIENTS:
        plain = np.array(seen[clients, "cartpole"])
        ensemble = np.array(seen[clients, "cartpole-ensemble"])
        p50, rate = np.median(plain, axis=0)
        ensemble_p50, ensemble_rate = np.median(ensemble, axis=0)
        slower, fewer = np.median(ensemble / plain, axis=0)
        print(
            f"| {clients} | {p50:.0f} | {ensemble_p50:.0f} | {slower:.2f}"
            f" | {rate:.0f} | {ensemble_rate:.0f} | {fewer:.2f} |"
        )


def report_switches(control: Control, switches: int) -> None:
    """How long a switch takes, each way."""
    direct, ensemble = [], []
    for _ in range(switches // 2):
        for moved in (
            rollback(control, model="cartpole", alias="production"),
            promote(control, model="cartpole", release="1.1.0", alias="production"),
        ):
            direct.append((moved.timings.switch_ms or 0.0) if moved.timings else 0.0)
    for _ in range(switches):
        started = time.monotonic()
        add_ensemble(control, 2)
        ensemble.append((time.monotonic() - started) * 1e3)
    for name, values in (("specific", direct), ("ensemble", ensemble)):
        print(f"switch, {name}: median {np.median(values):.0f} ms, max {max(values):.0f} ms of {len(values)}")


if __name__ == "__main__":
    main()
