"""The compiled OpenVINO backend on the real Triton: what it can do beyond its Python-based twin, and all that it bears.

What both do alike is tested in `test_backend_answers` and `test_backend_refusals`.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import time
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embedded import PATIENCE_S, wait_for
from numpy.typing import NDArray
from serving_fixtures import (
    MODEL,
    NATIVE,
    Answer,
    Server,
    answer,
    artifacts,
    config,
    fill_slot,
    needs_native,
    observations,
    publish,
    seal,
    serving,
)

from policyctl.client import PolicyClient
from policyctl.client.action import TimingSource
from policyctl.domain.artifacts import CONTRACT_FILE, Format
from policyctl.domain.contract import ActionKind, Contract
from policyctl.domain.manifest import canonical_json
from policyctl.domain.tensor import DTYPES, TensorSpec
from policyctl.serving import process
from policyctl.serving.command import command

pytestmark = [pytest.mark.server, needs_native]

SHARED = Path(__file__).resolve().parents[3] / "shared" / "policies"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that serves a policy by the native backend."""
    root = tmp_path_factory.mktemp("native")
    with serving(root / "repository", root / "backends") as running:
        artifacts(1)
        running.serve(MODEL, NATIVE, parameters={"releases": '{"1": "1.0.0"}'})
        yield running


def difference(found: Answer, inputs: Mapping[str, NDArray[Any]], seed: int = 1) -> float:
    assert found.status == 200, found.error
    wanted = answer(seed, inputs)
    return max(float(np.abs(found.outputs[name] - wanted[name]).max()) for name in wanted)


def publish_graph(server: Server, model: str, graph: Any, contract: Contract, **options: Any) -> str:
    """Publish and load a graph of OpenVINO under a contract of its own; the error of the load."""
    import openvino as ov

    slot = server.repository / model / "1"
    fill_slot(slot, seed=1, release="1.0.0")
    for name in ("model.onnx", "model.pt", "model.xml", "model.bin"):
        (slot / name).unlink()
    ov.save_model(graph, slot / "model.xml", compress_to_fp16=False)
    (slot / CONTRACT_FILE).write_bytes(canonical_json(contract.to_json()))
    digest = seal(slot, release="1.0.0", model=model).digest
    text = config(NATIVE, version=1, release="1.0.0", digest=digest, of=contract, **options)
    (server.repository / model / "config.pbtxt").write_text(text)
    return server.load(model)


def test_every_dtype_of_a_contract_goes_in_and_comes_out(server: Server) -> None:
    """Numbers and booleans of every width, all in one request, at one row and at many, keep their values."""
    import openvino as ov
    from openvino import opset13 as ops

    types = {name: ov.Type(np.dtype(name)) for name in DTYPES}
    inputs = [ops.parameter([-1, 3], types[name], name=f"x_{name}") for name in DTYPES]
    outputs = [ops.concat([x, x], axis=1) for x in inputs]
    action = ops.convert(inputs[DTYPES.index("int8")], ov.Type.f32)
    graph = ov.Model([action, *outputs], inputs, "types")
    for port, name in zip(graph.inputs, DTYPES, strict=True):
        port.get_tensor().set_names({f"x_{name}"})
    for port, name in zip(graph.outputs, ("action", *(f"y_{n}" for n in DTYPES)), strict=True):
        port.get_tensor().set_names({name})
    contract = Contract(
        observations=tuple(TensorSpec(f"x_{name}", name, (3,)) for name in DTYPES),
        outputs=(
            TensorSpec("action", "float32", (3,)),
            *(TensorSpec(f"y_{name}", name, (6,)) for name in DTYPES),
        ),
        action_kind=ActionKind.CONTINUOUS,
    )
    assert publish_graph(server, "types", graph, contract) == ""
    for rows in (1, 5):
        sent = {f"x_{n}": (np.arange(rows * 3) % 2 + (n != "bool")).reshape(rows, 3).astype(n) for n in DTYPES}
        found = server.infer("types", sent, outputs=[f"y_{n}" for n in DTYPES])
        assert found.status == 200, found.error
        for name in DTYPES:
            np.testing.assert_array_equal(found.outputs[f"y_{name}"], np.tile(sent[f"x_{name}"], 2))


def counter() -> tuple[Any, Contract]:
    """A recurrent policy that sums what it has seen since the sequence began, and acts on twice the sum."""
    import openvino as ov
    from openvino import opset13 as ops

    observation, memory, start = (
        ops.parameter([-1, n], np.float32, name=name) for n, name in ((2, "observation"), (2, "memory"), (1, "start"))
    )
    summed = ops.add(ops.multiply(memory, ops.subtract(np.float32(1), start)), observation)
    action = ops.multiply(summed, np.float32(2))
    graph = ov.Model([action, ops.add(summed, np.float32(0))], [observation, memory, start], "counter")
    for port, name in zip(graph.inputs, ("observation", "memory", "start"), strict=True):
        port.get_tensor().set_names({name})
    for port, name in zip(graph.outputs, ("action", "memory_out"), strict=True):
        port.get_tensor().set_names({name})
    contract = Contract(
        observations=(
            TensorSpec("observation", "float32", (2,)),
            TensorSpec("memory", "float32", (2,)),
            TensorSpec("start", "float32", (1,)),
        ),
        outputs=(TensorSpec("action", "float32", (2,)), TensorSpec("memory_out", "float32", (2,))),
        action_kind=ActionKind.CONTINUOUS,
    )
    return graph, contract


SEQUENCES = """sequence_batching { %s
  control_input { name: "start" control { kind: CONTROL_SEQUENCE_START fp32_false_true: [0, 1] } }
  state { input_name: "memory" output_name: "memory_out" data_type: TYPE_FP32 dims: [2] %s } }"""
ZEROS = 'initial_state { name: "zeros" data_type: TYPE_FP32 dims: [2] zero_data: true }'


@pytest.mark.parametrize("strategy", ["oldest { max_candidate_sequences: 8 }", "direct { }"])
def test_triton_keeps_the_memory_of_a_recurrent_policy(server: Server, strategy: str) -> None:
    """With implicit state a client sends observations alone; sequences that are computed together stay apart."""
    import tritonclient.grpc as grpc

    model, (graph, contract) = f"counter_{strategy[:6]}", counter()
    options = {"batching": SEQUENCES % (strategy, ZEROS), "without": ("memory", "memory_out", "start")}
    assert publish_graph(server, model, graph, contract, **options) == ""

    def run(sequence: int) -> list[float]:
        client, said = grpc.InferenceServerClient(f"127.0.0.1:{server.process.options.grpc_port}"), []
        for step in range(6):
            sent = grpc.InferInput("observation", [1, 2], "FP32")
            sent.set_data_from_numpy(np.full((1, 2), sequence, np.float32))
            flags = {"sequence_start": step == 0, "sequence_end": step == 5}
            found = client.infer(model, [sent], sequence_id=sequence, **flags)
            said.append(float(found.as_numpy("action")[0, 1]))
        client.close()
        return said

    with ThreadPoolExecutor(4) as pool:
        for sequence, said in zip((1, 2, 3, 4), pool.map(run, (1, 2, 3, 4)), strict=True):
            assert said == [2.0 * sequence * (step + 1) for step in range(6)]
    assert run(1)[0] == 2.0, "a sequence that begins again remembers nothing"


def test_a_memory_without_a_beginning_is_refused(server: Server) -> None:
    """Triton begins such a sequence with whatever lies in memory."""
    graph, contract = counter()
    options = {"batching": SEQUENCES % ("direct { }", ""), "without": ("memory", "memory_out", "start")}
    assert "state memory has no initial_state" in publish_graph(server, "unborn", graph, contract, **options)


def test_an_answer_says_which_release_gave_it_and_how_long_it_took(server: Server) -> None:
    """Release, digest and time are parameters of the response; our client takes its timing from there."""
    began = time.perf_counter_ns()
    found = server.infer(MODEL, observations(1))
    took_us = (time.perf_counter_ns() - began) / 1e3
    wait_for(lambda: any(f'"{MODEL}"' in text for text in server.said("policyctl loaded")))
    line = next(text for text in server.said("policyctl loaded") if f'"{MODEL}"' in text)
    words = json.loads(line.removeprefix("policyctl loaded "))
    assert found.parameters["release"] == "1.0.0"
    assert found.parameters["digest"] == words["manifest_digest"]
    assert 0 <= found.parameters["compute_us"] <= took_us
    with PolicyClient(MODEL, url=f"127.0.0.1:{server.process.options.grpc_port}", deadline_s=PATIENCE_S) as client:
        observation = {name: array[0] for name, array in observations(1).items()}
        asked = [client.act(observation, timing=True) for _ in range(2)]
    assert asked[1].release == "1.0.0"
    assert asked[1].server is not None
    assert asked[1].server.source is TimingSource.RESPONSE


def raw(server: Server, inputs: list[dict[str, Any]], body: bytes) -> int:
    """Send a request as it is; the HTTP status, or 0 where the server closes the connection."""
    text = json.dumps({"inputs": inputs}).encode()
    try:
        path, headers = f"/v2/models/{MODEL}/infer", {"Inference-Header-Content-Length": str(len(text))}
        return server.call("POST", path, text + body, headers)[0]
    except (http.client.HTTPException, OSError):
        return 0


def tensor(name: str, shape: list[int], dtype: str = "FP32", size: int = -1) -> dict[str, Any]:
    size = int(np.prod(shape)) * 4 if size < 0 else size
    return {"name": name, "shape": shape, "datatype": dtype, "parameters": {"binary_data_size": size}}


GOAL = tensor("goal", [1, 2])
MALFORMED = {
    "another shape": ([tensor("observation", [1, 11]), GOAL], 52),
    "another rank": ([tensor("observation", [12]), GOAL], 56),
    "one more dimension": ([tensor("observation", [1, 12, 1]), GOAL], 56),
    "another type": ([tensor("observation", [1, 12], "INT32"), GOAL], 56),
    "half the type": ([tensor("observation", [1, 12], "FP16", 24), GOAL], 32),
    "text": ([tensor("observation", [1, 12], "BYTES", 48), GOAL], 56),
    "an unknown name": ([tensor("observations", [1, 12]), GOAL], 56),
    "one input only": ([tensor("observation", [1, 12])], 48),
    "one input too many": ([tensor("observation", [1, 12]), GOAL, tensor("wind", [1, 1])], 60),
    "an input twice": ([tensor("observation", [1, 12]), GOAL, GOAL], 64),
    "no inputs": ([], 0),
    "no rows": ([tensor("observation", [0, 12]), tensor("goal", [0, 2])], 0),
    "more rows in one": ([tensor("observation", [2, 12]), GOAL], 104),
    "more rows than Triton takes": ([tensor("observation", [65, 12]), tensor("goal", [65, 2])], 65 * 56),
    "fewer bytes than the shape": ([tensor("observation", [1, 12], size=40), GOAL], 48),
    "more bytes than the shape": ([tensor("observation", [1, 12], size=52), GOAL], 60),
    "bytes that never come": ([tensor("observation", [1, 12]), GOAL], 20),
    "a negative dimension": ([tensor("observation", [-1, 12], size=48), GOAL], 56),
    "a dimension that overflows": ([tensor("observation", [2**62, 12], size=48), GOAL], 56),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_request_gets_an_error_and_hurts_nobody(server: Server, name: str) -> None:
    """While it is sent again and again, good requests beside it are answered rightly."""
    inputs, size = MALFORMED[name]
    with ThreadPoolExecutor(4) as pool:
        refused = [pool.submit(raw, server, inputs, bytes(size)) for _ in range(6)]
        good = {i: pool.submit(server.infer, MODEL, observations(1 + i % 3, seed=i)) for i in range(6)}
    assert all(400 <= r.result() < 600 or r.result() == 0 for r in refused)
    for number, found in good.items():
        assert difference(found.result(), observations(1 + number % 3, seed=number)) < 1e-5


def test_a_huge_request_is_answered_or_refused_and_nothing_else(server: Server) -> None:
    """Without a limit of batches, 200,000 rows are computed; the memory they come in is read where it is."""
    server.serve(f"{MODEL}.huge", NATIVE, max_batch=0)
    inputs = observations(200_000)
    assert difference(server.infer(f"{MODEL}.huge", inputs), inputs) < 1e-5
    few = observations(3)
    assert difference(server.infer(f"{MODEL}.huge", few), few) < 1e-5


def test_several_instances_answer_alike(server: Server) -> None:
    """Three instances share one model and nothing else; what they answer is right under 12 clients."""
    server.serve(f"{MODEL}.three", NATIVE, instances=3)

    def ask(number: int) -> float:
        inputs = observations(1 + number % 7, seed=number)
        return difference(server.infer(f"{MODEL}.three", inputs), inputs)

    with ThreadPoolExecutor(12) as pool:
        assert max(pool.map(ask, range(240))) < 1e-5


def test_a_release_that_comes_back_is_served_without_compiling_it_again(server: Server) -> None:
    """Its graphs were kept, and answer alike; other options, or another release, have graphs of their own."""
    model = f"{MODEL}.back"

    def reused() -> int:
        return sum(f'"{model}"' in text for text in server.said("policyctl reused"))

    for seed, options, again in ((1, {}, 0), (2, {}, 0), (1, {}, 1), (1, {"max_batch": 8}, 1), (2, {}, 2), (1, {}, 3)):
        shutil.rmtree(server.repository / model, ignore_errors=True)
        server.serve(model, NATIVE, seed=seed, **options)
        for rows in (1, 5, 8):
            inputs = observations(rows)
            assert difference(server.infer(model, inputs), inputs, seed) < 1e-5
        wait_for(lambda: reused() == again)  # noqa: B023 - asked in this round


def test_a_release_that_is_loaded_again_is_compiled_again(server: Server) -> None:
    """A load of what is loaded mends answers that were wrong: no graph from before it is used, then or later."""
    model = f"{MODEL}.again"

    def said(verb: str) -> int:
        return sum(f'"{model}"' in text for text in server.said(f"policyctl {verb}"))

    for again in range(1, 4):
        server.serve(model, NATIVE, seed=4)  # of this test alone
        inputs = observations(5)
        assert difference(server.infer(model, inputs), inputs, 4) < 1e-5
        os.utime(server.repository / model / "1")
        wait_for(lambda: said("loaded") == again and said("unloaded") == again - 1)  # noqa: B023 - asked in this round
    assert said("reused") == 0


@pytest.mark.parametrize("name", ["model.bin", "model.xml", "contract.json"])
def test_a_release_that_comes_back_is_read_again(server: Server, name: str) -> None:
    """A bit that changed meanwhile is refused, although its graphs were kept."""
    model = f"{MODEL}.changed"
    shutil.rmtree(server.repository / model, ignore_errors=True)
    server.serve(model, NATIVE)
    server.unload(model)
    wait_for(lambda: any(f'"{model}"' in text for text in server.said("policyctl unloaded")))
    file = server.repository / model / "1" / name
    content = file.read_bytes()
    file.write_bytes(bytes((content[0] ^ 1,)) + content[1:])
    assert name in server.load(model)


def test_triton_s_statistics_count_every_request_row_and_error(server: Server) -> None:
    """What the metrics are made of: successes, failures, rows, executions and compute time.

    What the backend refuses has the reason BACKEND there, as the runbook of availability says.
    """
    model = f"{MODEL}.counted"
    server.serve(model, NATIVE, batching="")
    for rows in (1, 4):
        server.infer(model, observations(rows))
    bad = observations(1)
    bad["goal"][0, 0] = np.inf
    assert server.infer(model, bad).status == 400
    deadline = time.monotonic() + PATIENCE_S
    while (found := server.statistics(model))["inference_stats"]["fail"]["count"] < 1:
        assert time.monotonic() < deadline
    assert found["inference_stats"]["success"]["count"] == 2
    assert (found["inference_count"], found["execution_count"]) == (5, 2)
    assert found["inference_stats"]["compute_infer"]["ns"] > 0
    assert {batch["batch_size"] for batch in found["batch_stats"]} == {1, 4}
    address = f"http://127.0.0.1:{server.process.options.metrics_port}/metrics"
    with urllib.request.urlopen(address, timeout=PATIENCE_S) as response:
        lines = response.read().decode().splitlines()
    failed = [line for line in lines if line.startswith("nv_inference_request_failure") and f'"{model}"' in line]
    counts = {re.search(r'reason="(\w+)"', line)[1]: float(line.split()[-1]) for line in failed}
    assert counts.pop("BACKEND") == 1
    assert not any(counts.values())


def test_a_request_that_was_cancelled_on_its_way_is_not_computed(server: Server) -> None:
    """Where Triton does not batch it does not look either, so the backend does."""
    import tritonclient.grpc as grpc

    model, client = f"{MODEL}.slow", grpc.InferenceServerClient(f"127.0.0.1:{server.process.options.grpc_port}")
    server.serve(model, NATIVE, max_batch=0)

    def send(rows: int) -> Any:
        inputs = []
        for name, array in observations(rows).items():
            inputs.append(grpc.InferInput(name, array.shape, "FP32"))
            inputs[-1].set_data_from_numpy(array)
        return client.async_infer(model, inputs, callback=lambda result, error: None)

    for _ in range(6):
        send(400_000)
    send(1).cancel()
    deadline = time.monotonic() + PATIENCE_S
    while (found := server.statistics(model)["inference_stats"])["success"]["count"] < 6:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    client.close()
    assert found["success"]["count"] == 6


@pytest.mark.parametrize(
    ("parameters", "said"),
    [({"INFERENCE_NUM_THREADS": "one"}, "INFERENCE_NUM_THREADS"), ({"NO_SUCH_OPTION": "1"}, "NO_SUCH_OPTION")],
)
def test_an_option_that_openvino_does_not_take_is_refused(
    server: Server, parameters: dict[str, str], said: str
) -> None:
    """Every parameter in capitals goes to OpenVINO, and a mistake in one stops the load instead of being ignored."""
    model = f"{MODEL}.options"
    publish(server.repository, model, NATIVE, parameters=parameters)
    assert said in server.load(model)
    shutil.rmtree(server.repository / model)


def test_openvino_s_options_are_passed_on(server: Server) -> None:
    """Threads, streams, pinning, precision and cache of one model are its own business."""
    options = {
        "INFERENCE_NUM_THREADS": "2",
        "NUM_STREAMS": "2",
        "ENABLE_CPU_PINNING": "NO",
        "ENABLE_BATCH_PADDING": "YES",
    }
    server.serve(f"{MODEL}.tuned", NATIVE, parameters=options)
    inputs = observations(7)
    assert difference(server.infer(f"{MODEL}.tuned", inputs), inputs) < 1e-5


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (("TYPE_FP32 dims: [12]", "TYPE_STRING dims: [12]"), "TYPE_STRING, which is not served"),
        (("dims: [12]", "dims: [13]"), "config.pbtxt has inputs observation float32[13]"),
        (('name: "goal"', 'name: "aim"'), "aim"),
        (("KIND_CPU", "KIND_GPU"), ""),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(server: Server, edit: tuple[str, str], said: str) -> None:
    """Strings, other shapes and names, and GPUs: each is named, and nothing is loaded."""
    model = f"{MODEL}.misfit"
    server.serve(model, NATIVE)
    file = server.repository / model / "config.pbtxt"
    text = file.read_text()
    assert edit[0] in text
    file.write_text(text.replace(*edit))
    problem = server.load(model)
    assert problem
    assert said in problem
    inputs = observations(2)
    assert difference(server.infer(model, inputs), inputs) < 1e-5, "the incumbent serves on"
    shutil.rmtree(server.repository / model)


def test_a_configuration_may_leave_out_what_the_contract_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Triton completes configurations, inputs, outputs and batching come from the release."""

    def completing(*arguments: Any, **options: Any) -> list[str]:
        return [word for word in command(*arguments, **options) if word != "--disable-auto-complete-config"]

    monkeypatch.setattr(process, "command", completing)
    slot = tmp_path / "repository" / MODEL / "1"
    fill_slot(slot, seed=1, release="1.0.0")
    digest = seal(slot, release="1.0.0").digest
    text = f'backend: "{NATIVE}"\nparameters {{ key: "release" value {{ string_value: "1.0.0" }} }}\n'
    text += f'parameters {{ key: "manifest_digest" value {{ string_value: "{digest}" }} }}\n'
    (slot.parent / "config.pbtxt").write_text(text)
    with serving(tmp_path / "repository", tmp_path / "backends") as server:
        assert server.load(MODEL) == ""
        inputs = observations(9)
        assert difference(server.infer(MODEL, inputs), inputs) < 1e-5


@pytest.mark.shared
@pytest.mark.parametrize(
    "agent", sorted(p.name for p in SHARED.iterdir() if p.is_dir()) if SHARED.is_dir() else ["none"]
)
def test_a_real_agent_answers_as_through_the_python_based_backend(server: Server, agent: str, tmp_path: Path) -> None:
    """At batch 1, 7 and 64, and in batches that Triton forms, both backends give the same golden answers."""
    from policyctl.domain.golden import Golden
    from policyctl_exporters import export_policy

    if not SHARED.is_dir():
        pytest.skip("the shared policies are not here")
    folder, statistics = SHARED / agent, SHARED / agent / "vecnormalize.pkl"
    output = tmp_path / "exported"
    export_policy(
        folder / "model.zip",
        output,
        formats=[Format.OPENVINO],
        normalizer=statistics if statistics.exists() else False,
        trust_pickle=True,
    )
    contract = Contract.from_json(json.loads((output / CONTRACT_FILE).read_bytes()))
    golden = Golden.from_bytes((output / "golden.npz").read_bytes(), contract)
    for kind in (NATIVE, Format.OPENVINO):
        model = f"{agent.lower()}.{kind}"
        slot = server.repository / model / "1"
        shutil.copytree(output, slot)
        digest = seal(slot, release="1.0.0", model=agent.lower()).digest
        text = config(kind, version=1, release="1.0.0", digest=digest, of=contract)
        (server.repository / model / "config.pbtxt").write_text(text)
        assert server.load(model) == ""
    names = [spec.name for spec in contract.outputs]

    def ask(kind: str, first: int, rows: int) -> Answer:
        sent = {name: array[first : first + rows] for name, array in golden.observations.items()}
        return server.infer(f"{agent.lower()}.{kind}", sent, outputs=names)

    def compare(found: Answer, wanted: Mapping[str, NDArray[Any]]) -> None:
        assert found.status == 200, found.error
        for name in names:
            np.testing.assert_allclose(found.outputs[name], wanted[name], rtol=1e-5, atol=1e-5)

    for rows in (1, 7, 64):
        compare(ask(NATIVE, 0, rows), ask(Format.OPENVINO, 0, rows).outputs)
    with ThreadPoolExecutor(8) as pool:
        spans = [(i % 50, 1 + i % 9) for i in range(60)]
        for (first, rows), found in zip(spans, pool.map(lambda s: ask(NATIVE, *s), spans), strict=True):
            compare(found, {name: array[first : first + rows] for name, array in golden.outputs.items()})
    server.unload(f"{agent.lower()}.{Format.OPENVINO}")
