"""Answering requests, with Triton's module and the runtime faked."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from policyctl.domain.artifacts import CONTRACT_FILE, MANIFEST_FILE
from policyctl.domain.contract import ActionKind, Contract
from policyctl.domain.manifest import canonical_json
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import IntegrityError
from policyctl.integrity import build_manifest

CONTRACT = Contract(
    observations=(TensorSpec("observation", "float32", (1,)),),
    outputs=(TensorSpec("action", "float32", (1,)), TensorSpec("value", "float32", (1,))),
    action_kind=ActionKind.CONTINUOUS,
)
RAISES, NAN = 666.0, 777.0


@dataclass
class FakeTensor:
    name: str
    array: np.ndarray

    def as_numpy(self) -> np.ndarray:
        return self.array


@dataclass
class FakeRequest:
    tensors: dict[str, np.ndarray]
    wanted: tuple[str, ...] = ("action", "value")
    id: str = ""

    def requested_output_names(self) -> tuple[str, ...]:
        return self.wanted

    def request_id(self) -> str:
        return self.id


@dataclass
class FakeLogger:
    lines: list[tuple[str, str]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return lambda text: self.lines.append((name.removeprefix("log_"), text))


class FakeSession:
    """Answers twice the observation, from one buffer; raises or gives NaN for two special observations."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self._buffer = np.zeros((64, 1), np.float32)

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        (observation,) = inputs
        rows = len(observation)
        self.batches.append(rows)
        if (observation == RAISES).any():
            raise RuntimeError("runtime trouble")
        self._buffer[:rows] = np.where(observation == NAN, np.nan, 2 * observation)
        return [self._buffer[:rows], self._buffer[:rows]]


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module under test, over a fake of the one that only exists inside Triton."""
    fake: Any = ModuleType("triton_python_backend_utils")

    class TritonError(SimpleNamespace):
        INVALID_ARG, INTERNAL = "invalid", "internal"

        def __init__(self, text: str, code: str) -> None:
            super().__init__(text=text, code=code)

    class MetricFamily:
        COUNTER = "counter"
        counted: ClassVar[dict[str, int]] = {}

        def __init__(self, *, name: str, description: str, kind: str) -> None:
            self.name = name

        def Metric(self, *, labels: dict[str, str]) -> Any:  # noqa: N802 - Triton's name
            key = " ".join([self.name, *labels.values()])
            MetricFamily.counted[key] = 0
            return SimpleNamespace(increment=lambda by: MetricFamily.counted.update({key: self.counted[key] + by}))

    fake.TritonError = TritonError
    fake.TritonModelException = type("TritonModelException", (Exception,), {})
    fake.MetricFamily = MetricFamily
    fake.Logger = FakeLogger()
    fake.Tensor = FakeTensor
    fake.InferenceResponse = lambda output_tensors=(), error=None: SimpleNamespace(
        # As in Triton, tensors are read only after execute has returned.
        tensors=list(output_tensors),
        error=error,
    )
    fake.get_input_tensor_by_name = lambda request, name: (
        FakeTensor(name, request.tensors[name]) if name in request.tensors else None
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake)
    monkeypatch.delitem(sys.modules, "policyctl.serving.backends.runtime", raising=False)
    module = importlib.import_module("policyctl.serving.backends.runtime")
    monkeypatch.setattr(module, "end_with", lambda _server: None)  # these tests are no server's stub
    return module


@pytest.fixture
def slot(tmp_path: Path) -> Path:
    """A release of one file and its contract."""
    folder = tmp_path / "walker" / "3"
    folder.mkdir(parents=True)
    (folder / "model.fake").write_bytes(b"weights")
    (folder / CONTRACT_FILE).write_bytes(canonical_json(CONTRACT.to_json()))
    manifest = build_manifest(folder, model="walker", release="1.2.0")
    (folder / MANIFEST_FILE).write_bytes(manifest.to_bytes())
    return folder


def arguments(slot: Path, **parameters: str) -> dict[str, str]:
    digest = build_manifest(slot, model="walker", release="1.2.0").digest
    values = {"manifest_digest": digest, "release": "1.2.0", **parameters}
    tensor = {"data_type": "TYPE_FP32", "dims": [1]}
    return {
        "model_name": "walker.staging",
        "model_version": slot.name,
        "model_repository": str(slot.parent),
        "model_config": json.dumps(
            {
                "max_batch_size": 64,
                "input": [{"name": "observation", **tensor}],
                "output": [{"name": "action", **tensor}, {"name": "value", **tensor}],
                "parameters": {key: {"string_value": value} for key, value in values.items()},
            }
        ),
    }


def make(runtime: ModuleType) -> Any:
    class Model(runtime.PolicyModel):  # type: ignore[misc]
        default_filename = "model.fake"
        warm_up_runs = 2

        def open_session(self, spec: Any, contract: Any, files: Any) -> FakeSession:
            self.files = dict(files)
            return FakeSession()

    return Model()


@pytest.fixture
def model(runtime: ModuleType, slot: Path) -> Any:
    """A loaded model, with its warm-up forgotten."""
    made = make(runtime)
    made.initialize(arguments(slot))
    made._session.batches.clear()
    return made


def ask(*values: float, **options: Any) -> FakeRequest:
    return FakeRequest({"observation": np.array(values, np.float32)[:, None]}, **options)


def action(response: Any) -> list[float]:
    return [float(v) for t in response.tensors if t.name == "action" for v in t.array[:, 0]]


def test_a_load_compiles_the_verified_bytes_and_warms_up(runtime: ModuleType, slot: Path) -> None:
    """The session gets bytes, not a path, and has answered before the first client asks."""
    made = make(runtime)
    made.initialize(arguments(slot))
    assert made.files["model.fake"] == b"weights"
    assert made._session.batches == [1, 1]
    level, text = runtime.pb.Logger.lines[-1]
    assert level == "info"
    assert json.loads(text.removeprefix("policyctl loaded "))["release"] == "1.2.0"


@pytest.mark.parametrize(
    ("parameters", "words"),
    [({"manifest_digest": "sha256:" + "0" * 64}, "manifest.json"), ({"release": "1.3.0"}, "says walker 1.3.0")],
)
def test_a_load_of_something_else_fails(
    runtime: ModuleType, slot: Path, parameters: dict[str, str], words: str
) -> None:
    """Another digest or release than configured never gets as far as compiling."""
    made = make(runtime)
    with pytest.raises(IntegrityError, match=words):
        made.initialize(arguments(slot, **parameters))
    assert not hasattr(made, "files")
    made.finalize()  # Triton calls it after a failed load, too


def test_requests_are_computed_in_one_inference(model: Any) -> None:
    """Each gets its own rows, whatever their number."""
    responses = model.execute([ask(1), ask(2, 3), ask(4)])
    assert [action(r) for r in responses] == [[2], [4, 6], [8]]
    assert model._session.batches == [4]


def test_a_bad_request_is_left_out_of_the_batch(model: Any) -> None:
    """It gets an error with the client's mistake; the others are computed together."""
    responses = model.execute([ask(1), ask(np.nan, id="r\n1"), FakeRequest({}), ask(4)])
    assert [r.error.code if r.error else action(r) for r in responses] == [[2], "invalid", "invalid", [8]]
    assert model._session.batches == [2]


def test_a_log_line_cannot_be_forged_by_a_request_id(runtime: ModuleType, model: Any) -> None:
    """The id stands in the line, as text of one line."""
    model.execute([ask(np.nan, id='x"\nI0101 forged')])
    level, text = runtime.pb.Logger.lines[-1]
    assert level == "warn"
    assert "\n" not in text
    assert json.loads(text.removeprefix("policyctl refused "))["request_id"] == 'x"\nI0101 forged'


def test_only_the_culprit_of_a_failed_batch_fails(model: Any) -> None:
    """The batch is taken apart, and answers do not overwrite each other on the way."""
    responses = model.execute([ask(1, 2), ask(RAISES), ask(3)])
    assert [r.error.text if r.error else action(r) for r in responses] == [[2, 4], "runtime trouble", [6]]
    assert model._session.batches == [4, 2, 1, 1]


def test_a_request_that_fails_alone_is_not_tried_twice(model: Any) -> None:
    """There is nobody else to blame."""
    (response,) = model.execute([ask(RAISES)])
    assert response.error.code == "internal"
    assert model._session.batches == [1]


def test_a_nan_action_is_withheld_from_its_own_request_only(model: Any) -> None:
    """The others of the batch keep their actions, without a second inference."""
    responses = model.execute([ask(1), ask(5, NAN), ask(3)])
    assert [r.error.code if r.error else action(r) for r in responses] == [[2], "internal", [6]]
    assert "action[0] of row 1" in responses[1].error.text
    assert model._session.batches == [4]


def test_what_is_refused_is_counted_by_whose_doing_it_was(runtime: ModuleType, model: Any) -> None:
    """Triton takes an answered error for a success; the counter is there from the load on, at 0."""
    name = f"policyctl_refused_requests_total walker.staging 3 {os.getpid()}"
    counted = runtime.pb.MetricFamily.counted
    assert counted == {f"{name} request": 0, f"{name} policy": 0}
    model.execute([ask(1), ask(np.nan), FakeRequest({}), ask(5, NAN), ask(RAISES)])
    assert counted == {f"{name} request": 2, f"{name} policy": 2}


def test_a_server_without_metrics_serves_as_well(runtime: ModuleType, slot: Path, monkeypatch) -> None:
    """It says once that nothing is counted."""

    def refuse(**_: str) -> None:
        raise runtime.pb.TritonModelException("metrics are off")

    monkeypatch.setattr(runtime.pb.MetricFamily, "__init__", lambda self, **_: refuse())
    made = make(runtime)
    made.initialize(arguments(slot))
    (response,) = made.execute([ask(np.nan)])
    assert response.error.code == "invalid"
    assert sum("not counted (metrics are off)" in text for _, text in runtime.pb.Logger.lines) == 1


def test_only_wanted_outputs_are_sent(model: Any) -> None:
    """And only those."""
    (response,) = model.execute([ask(1, wanted=("value",))])
    assert [t.name for t in response.tensors] == ["value"]


def test_unloading_lets_go_of_the_session(model: Any) -> None:
    """Twice is as good as once."""
    model.finalize()
    assert not hasattr(model, "_session")
    model.finalize()


def test_a_stub_that_hangs_ends_with_its_server() -> None:
    """Its main thread waits for ever, without the interpreter's lock, as for a lock that a killed server held."""
    stub = (
        "import sys, threading; sys.modules['triton_python_backend_utils'] = type(sys)('pb')\n"
        "from policyctl.serving.backends.runtime import end_with\n"
        "import os; end_with(os.getppid()); print('ready', flush=True); threading.Event().wait()"
    )
    server = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {stub!r}])"
    with subprocess.Popen([sys.executable, "-c", server], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.kill()
        assert process.stdout.read() == b"", "it holds the pipe for as long as it lives"
