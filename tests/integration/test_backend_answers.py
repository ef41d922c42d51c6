"""What clients get from every backend, on the real Triton."""

from __future__ import annotations

import json
import re
import shutil
import time
import urllib.request
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embedded import PATIENCE_S, wait_for
from serving_fixtures import (
    FORMATS,
    HAS_NATIVE,
    KINDS,
    MODEL,
    NATIVE,
    Kind,
    Server,
    answer,
    artifacts,
    config,
    fill_slot,
    needs_native,
    observations,
    seal,
    serving,
)

from policyctl.domain.artifacts import CONTRACT_FILE, Format
from policyctl.domain.contract import ActionKind, Contract
from policyctl.domain.manifest import canonical_json
from policyctl.domain.tensor import TensorSpec
from policyctl_exporters.writers import write_openvino

pytestmark = pytest.mark.server


def together(rows: int) -> str:
    """Requests wait until they are so many rows, and are computed together; at times Triton waits to the limit."""
    return f"dynamic_batching {{ preferred_batch_size: [{rows}] max_queue_delay_microseconds: 5000000 }}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that serves the same policy by all backends."""
    root = tmp_path_factory.mktemp("answers")
    with serving(root / "repository", root / "backends") as running:
        artifacts(1)  # the exporter is not for threads
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda f: running.serve(f"{MODEL}.{f}", f), FORMATS))
        running.serve(f"{MODEL}.together_{Format.ONNX}", Format.ONNX, batching=together(11))
        if HAS_NATIVE:
            running.serve(f"{MODEL}.{NATIVE}", NATIVE)
            running.serve(f"{MODEL}.together_{NATIVE}", NATIVE, batching=together(11))
        yield running


OWN_AND_NATIVE = (Format.ONNX, pytest.param(NATIVE, marks=needs_native))
"""One backend of each make: what they share needs no further test."""


def largest_difference(found: Any, seed: int, inputs: Any) -> float:
    wanted = answer(seed, inputs)
    return max(float(np.abs(found.outputs[name] - wanted[name]).max()) for name in wanted)


@pytest.mark.parametrize("rows", [1, 7, 64])
@pytest.mark.parametrize("fmt", KINDS)
def test_every_backend_answers_as_the_policy_does(server: Server, fmt: Kind, rows: int) -> None:
    """Action and value agree with eager torch within 1e-5 at any batch size: full precision, inputs in order."""
    inputs = observations(rows, seed=rows)
    found = server.infer(f"{MODEL}.{fmt}", inputs)
    assert found.status == 200, found.error
    assert largest_difference(found, 1, inputs) < 1e-5


@pytest.mark.parametrize("fmt", KINDS)
def test_the_order_in_which_a_client_sends_its_inputs_does_not_matter(server: Server, fmt: Kind) -> None:
    """Inputs are taken by name, also where the artifact knows positions only."""
    inputs = observations(3)
    found = server.infer(f"{MODEL}.{fmt}", dict(reversed(inputs.items())))
    assert largest_difference(found, 1, inputs) < 1e-5


@pytest.mark.parametrize("fmt", [Format.OPENVINO, pytest.param(NATIVE, marks=needs_native)])
def test_openvino_computes_in_bf16_only_when_told_to(server: Server, fmt: Kind) -> None:
    """The precision option reaches OpenVINO, and the default is not the CPU's own choice."""
    if "avx512_bf16" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this CPU has no bf16")
    inputs = observations(64)
    server.serve(f"{MODEL}.bf16_{fmt}", fmt, parameters={"INFERENCE_PRECISION_HINT": "bf16"})
    assert largest_difference(server.infer(f"{MODEL}.bf16_{fmt}", inputs), 1, inputs) > 1e-4


@pytest.mark.parametrize("fmt", OWN_AND_NATIVE)
def test_requests_that_are_computed_together_get_their_own_rows(server: Server, fmt: Kind) -> None:
    """Clients with different batch sizes share an inference, in any order, and each gets its own actions."""
    model = f"{MODEL}.together_{fmt}"
    before = server.statistics(model)["execution_count"]

    def ask(number: int) -> float:
        inputs = observations((1, 2, 3, 5)[number % 4], seed=number)
        return largest_difference(server.infer(model, inputs), 1, inputs)

    with ThreadPoolExecutor(4) as pool:
        for turn in range(4):
            assert max(pool.map(ask, range(4 * turn, 4 * turn + 4))) < 1e-5
    wait_for(lambda: server.statistics(model)["execution_count"] >= before + 4)
    assert server.statistics(model)["execution_count"] == before + 4, "they were not computed together"


@pytest.mark.parametrize("fmt", OWN_AND_NATIVE)
def test_a_nan_observation_is_named_and_hurts_nobody_else(server: Server, fmt: Kind) -> None:
    """The error names input, feature and row; requests of the same batch are answered."""
    model, bad = f"{MODEL}.together_{fmt}", observations(3)
    bad["observation"][2, 5] = np.nan
    before = server.statistics(model)["execution_count"]
    with ThreadPoolExecutor(5) as pool:
        refused = pool.submit(server.infer, model, bad, request_id="flight-7\nforged")
        others = [pool.submit(server.infer, model, observations(2, seed=i)) for i in range(4)]
    assert refused.result().status == 400
    assert "observation[5] (joint_5) of row 2 as nan" in refused.result().error
    for number, other in enumerate(others):
        assert largest_difference(other.result(), 1, observations(2, seed=number)) < 1e-5
    wait_for(lambda: server.statistics(model)["execution_count"] > before)
    assert server.statistics(model)["execution_count"] == before + 1, "they were not computed together"
    wait_for(lambda: server.said("flight-7"))
    assert '"request_id": "flight-7\\nforged"' in server.said("flight-7")[0]


@pytest.mark.parametrize("fmt", KINDS)
def test_an_action_that_is_not_a_number_is_withheld(server: Server, fmt: Kind) -> None:
    """A policy that computes NaN gets its client an error and never an action."""
    inputs = observations(2)
    inputs["observation"][1, 0] = 2e30
    found = server.infer(f"{MODEL}.{fmt}", inputs)
    assert found.status == 500
    assert "action[0] of row 1 as nan" in found.error


@pytest.mark.parametrize("fmt", OWN_AND_NATIVE)
def test_a_withheld_action_does_not_hurt_the_rest_of_its_batch(server: Server, fmt: Kind) -> None:
    """Of requests computed in one inference, only the one with the NaN action fails."""
    model, bad = f"{MODEL}.together_{fmt}", observations(1)
    bad["observation"][0, 0] = 2e30
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(server.infer, model, observations(4, seed=1))
        refused = pool.submit(server.infer, model, bad)
        last = pool.submit(server.infer, model, observations(6, seed=2))
    assert refused.result().status == 500
    assert largest_difference(first.result(), 1, observations(4, seed=1)) < 1e-5
    assert largest_difference(last.result(), 1, observations(6, seed=2)) < 1e-5


def serve_table(server: Server, model: str, fmt: Kind, contract: Contract, policy: Any, batching: str = "") -> None:
    """Serve a torch module that takes one int64 observation of shape (1,)."""
    import torch

    slot = server.repository / model / "1"
    fill_slot(slot, seed=1, release="1.0.0")
    for file in slot.iterdir():
        file.unlink()
    names = [spec.name for spec in contract.outputs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            policy,
            (torch.zeros(2, 1, dtype=torch.int64),),
            str(slot / "model.onnx"),
            dynamo=False,
            input_names=["observation"],
            output_names=names,
            dynamic_axes={name: {0: "n"} for name in ("observation", *names)},
        )
    if fmt != Format.ONNX:
        write_openvino(slot / "model.onnx", slot, contract)
    (slot / CONTRACT_FILE).write_bytes(canonical_json(contract.to_json()))
    digest = seal(slot, release="1.0.0").digest
    text = config(fmt, version=1, release="1.0.0", digest=digest, batching=batching, of=contract)
    (server.repository / model / "config.pbtxt").write_text(text)
    assert server.load(model) == ""


def test_a_request_that_stops_the_runtime_fails_alone(server: Server) -> None:
    """When the batch raises, each request is computed alone, and only the culprit gets the error.

    The runtime's words hold the observation's value: the client reads them, the log has the request's id alone.
    """
    import torch

    class Table(torch.nn.Module):
        """Looks its action up in a table of 4; ONNX Runtime raises beyond it."""

        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding.from_pretrained(torch.arange(8.0).reshape(4, 2))

        def forward(self, observation: Any) -> Any:
            return self.table(observation[:, 0])

    contract = Contract(
        observations=(TensorSpec("observation", "int64", (1,)),),
        outputs=(TensorSpec("action", "float32", (2,)),),
        action_kind=ActionKind.CONTINUOUS,
    )
    model, canary = f"{MODEL}.table", 987654321
    serve_table(server, model, Format.ONNX, contract, Table(), batching=together(4))
    asked = [np.array([[i]], dtype=np.int64) for i in (0, 3, canary, 1)]

    def ask(inputs: np.ndarray) -> Any:
        return server.infer(model, {"observation": inputs}, outputs=["action"], request_id=f"row-{len(inputs)}")

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, asked))
    assert [f.status for f in found] == [200, 200, 500, 200]
    assert "out of data bounds" in found[2].error
    assert str(canary) in found[2].error
    for index in (0, 1, 3):
        row = int(asked[index][0, 0])
        assert found[index].outputs["action"].tolist() == [[2.0 * row, 2.0 * row + 1]]
    wait_for(lambda: server.said("row-1"))
    assert "its words went to the client alone" in server.said("row-1")[0]
    assert not server.said(str(canary))


@pytest.mark.parametrize("fmt", [Format.OPENVINO, *OWN_AND_NATIVE])
def test_a_choice_between_scores_that_are_not_numbers_is_withheld(server: Server, fmt: Kind) -> None:
    """An index cannot be NaN, so its scores are looked at; infinite ones are how a policy rules a choice out."""
    import torch

    class Chooser(torch.nn.Module):
        """Scores of three choices: ordinary ones for 0, one ruled out for 1, a NaN for 2."""

        def __init__(self) -> None:
            super().__init__()
            rows = [[0.0, 1.0, 2.0], [0.0, 1.0, -np.inf], [0.0, np.nan, -np.inf]]
            self.register_buffer("scores", torch.tensor(rows))

        def forward(self, observation: Any) -> Any:
            scores = torch.index_select(self.scores, 0, observation[:, 0])
            return torch.argmax(scores, dim=1, keepdim=True), scores

    contract = Contract(
        observations=(TensorSpec("observation", "int64", (1,)),),
        outputs=(TensorSpec("action", "int64", (1,), 0, 2), TensorSpec("logits", "float32", (3,))),
        action_kind=ActionKind.DISCRETE,
    )
    model = f"{MODEL}.chooser_{fmt}"
    serve_table(server, model, fmt, contract, Chooser())
    for row, chosen in ((0, 2), (1, 1)):
        found = server.infer(model, {"observation": np.array([[row]])}, outputs=["action"])
        assert found.outputs["action"].tolist() == [[chosen]]
    found = server.infer(model, {"observation": np.array([[0], [2]])}, outputs=["action"])
    assert found.status == 500
    assert "logits[1] of row 1 as nan" in found.error


@pytest.mark.parametrize("fmt", OWN_AND_NATIVE)
def test_only_the_outputs_that_were_asked_for_are_sent(server: Server, fmt: Kind) -> None:
    """A client that wants the action does not pay for the rest."""
    found = server.infer(f"{MODEL}.{fmt}", observations(1), outputs=["action"])
    assert list(found.outputs) == ["action"]


@pytest.mark.parametrize("fmt", [Format.OPENVINO, *OWN_AND_NATIVE])
def test_a_model_without_batching_by_triton_is_served(server: Server, fmt: Kind) -> None:
    """With max_batch_size 0 the batch dimension stands in the dims, and any batch is answered."""
    model = f"{MODEL}.unbatched_{fmt}"
    server.serve(model, fmt, max_batch=0)
    inputs = observations(9)
    assert largest_difference(server.infer(model, inputs), 1, inputs) < 1e-5


@pytest.mark.parametrize("fmt", OWN_AND_NATIVE)
def test_a_request_of_other_dimensions_is_refused(server: Server, fmt: Kind) -> None:
    """A client with the wrong observation learns it from the status."""
    inputs = observations(1)
    inputs["observation"] = inputs["observation"][:, :-1]
    found = server.infer(f"{MODEL}.{fmt}", inputs)
    assert found.status == 400
    assert "observation" in found.error


@pytest.mark.parametrize("fmt", OWN_AND_NATIVE)
def test_a_load_says_in_one_line_what_is_served(server: Server, fmt: Kind) -> None:
    """The log has model, version, release, digest and time of every load, for a machine to read."""
    model = f"{MODEL}.{fmt}"
    wait_for(lambda: any(f'"{model}"' in text for text in server.said("policyctl loaded")))
    line = next(text for text in server.said("policyctl loaded") if f'"{model}"' in text)
    words = json.loads(line.removeprefix("policyctl loaded "))
    assert (words["model"], words["version"], words["release"]) == (model, "1", "1.0.0")
    assert words["manifest_digest"].startswith("sha256:")
    assert 0 < words["load_ms"] < 60_000


@pytest.mark.parametrize("fmt", OWN_AND_NATIVE)
def test_triton_drops_a_cancelled_request_before_the_backend_sees_it(server: Server, fmt: Kind) -> None:
    """What lets the backend not look for cancellation itself: in the queue, Triton does."""
    import tritonclient.grpc as grpc

    model = f"{MODEL}.waits_{fmt}"
    server.serve(model, fmt, batching=together(2))

    def failures() -> int:
        return int(server.statistics(model)["inference_stats"]["fail"]["count"])

    before, failed = server.statistics(model)["execution_count"], failures()
    client = grpc.InferenceServerClient(f"127.0.0.1:{server.process.options.grpc_port}")

    def inputs(rows: int) -> list[Any]:
        found = [(grpc.InferInput(name, array.shape, "FP32"), array) for name, array in observations(rows).items()]
        return [tensor.set_data_from_numpy(array) for tensor, array in found]

    call = client.async_infer(model, inputs(1), callback=lambda result, error: None)
    wait_for(lambda: waiting(server, model) == 1)
    call.cancel()
    time.sleep(0.5)  # Triton does not say that it has heard; by the same connection, it hears this first.
    client.infer(model, inputs(2))  # The queue is looked at when something comes.
    wait_for(lambda: failures() == failed + 1)
    client.close()
    wait_for(lambda: server.statistics(model)["execution_count"] > before)
    assert server.statistics(model)["execution_count"] == before + 1


@pytest.mark.parametrize("fmt", OWN_AND_NATIVE)
def test_a_release_is_served_again_after_it_was_unloaded(server: Server, fmt: Kind) -> None:
    """Unloading lets go of everything, and loading brings it back."""
    model = f"{MODEL}.again_{fmt}"
    server.serve(model, fmt, seed=2)
    server.unload(model)
    wait_for(lambda: any(model in text for text in server.said("policyctl unloaded")))
    server.serve(model, fmt, seed=2)
    inputs = observations(4)
    assert largest_difference(server.infer(model, inputs), 2, inputs) < 1e-5
    shutil.rmtree(server.repository / model)


def waiting(server: Server, model: str) -> float:
    """How many requests stand in the queue of `model`."""
    address = f"http://127.0.0.1:{server.process.options.metrics_port}/metrics"
    with urllib.request.urlopen(address, timeout=PATIENCE_S) as response:
        pending = re.search(
            rf'^nv_inference_pending_request_count{{model="{model}".*}} (.*)$', response.read().decode(), re.M
        )
    assert pending is not None
    return float(pending[1])
