"""What gRPC messages carry, and what no Triton writes into them."""

from __future__ import annotations

from typing import Any

import numpy as np
import psutil
import pytest
from tritonclient.grpc import InferInput, InferRequestedOutput, service_pb2
from tritonclient.grpc._utils import _get_inference_request
from tritonclient.utils import np_to_triton_dtype

from policyctl.client.calls import Infer
from policyctl.client.grpc_messages import Requests, answer_of, arrays_of
from policyctl.errors import ServerError


def call(rows: int, request_id: str = "a") -> Infer:
    inputs = {"image": np.full((rows, 2, 2), rows, np.uint8), "speed": np.full((rows, 1), rows / 2, np.float32)}
    return Infer(inputs, ("action", "value"), request_id)


def response(**changed: Any) -> Any:
    output = {"name": "action", "datatype": "FP32", "shape": [1, 2], **changed}
    return service_pb2.ModelInferResponse(model_version="3", id="a", outputs=[output], raw_output_contents=[bytes(8)])


@pytest.mark.parametrize("request_id", ["", "a", "b" * 127, "b" * 128, "b" * 300, "ä"])
def test_the_parts_of_a_request_make_the_message_that_tritonclient_sends(request_id: str) -> None:
    """Whatever was asked before; the tensors, the id and the time-out are those of the call."""
    requests = Requests("walker")
    for rows in (1, 2, 300, 1):
        wanted, tensors = call(rows, request_id), []
        for name, array in wanted.inputs.items():
            tensors.append(InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)))
            tensors[-1].set_data_from_numpy(array)
        outputs = [InferRequestedOutput(name) for name in wanted.outputs]
        expected = _get_inference_request("walker", tensors, "", request_id, outputs, 0, False, False, 0, 7000, None)
        assert service_pb2.ModelInferRequest.FromString(requests.write(wanted, 6.1e-3)) == expected


def test_requests_take_no_memory_that_stays() -> None:
    """Protobuf keeps what was once in a message for as long as the message lives."""
    requests, large = Requests("walker"), Infer({"image": np.zeros((1, 1 << 20), np.uint8)}, ("action",), "a")
    requests.write(large, 1.0)
    before = psutil.Process().memory_info().rss
    for _ in range(200):
        requests.write(large, 1.0)
    assert psutil.Process().memory_info().rss < before + (64 << 20)


def test_an_answer_is_read_with_the_parameters_that_somebody_wants() -> None:
    """Timing only for who asked for it."""
    answered = response()
    answered.parameters["release"].string_param = "1.0.0"
    answered.parameters["compute_us"].int64_param = 7
    wanted = call(1)
    assert answer_of(answered, wanted, {}, 5000).parameters == {"release": "1.0.0"}
    wanted.timing = True
    answer = answer_of(answered, wanted, arrays_of(answered), 5000)
    assert (answer.slot, answer.request_id, answer.round_trip_us) == (3, "a", 5.0)
    assert answer.parameters == {"release": "1.0.0", "compute_us": 7}
    answer.outputs["action"][:] = 1.0  # its own, to be written to


@pytest.mark.parametrize("changed", [{"shape": [3, 2]}, {"datatype": "BYTES"}, {"datatype": "FP64", "shape": [1, 2]}])
def test_an_output_that_contradicts_itself_is_an_error_of_the_server(changed: dict[str, Any]) -> None:
    """A control loop that falls back to a safe action catches that one."""
    with pytest.raises(ServerError, match="cannot be read"):
        arrays_of(response(**changed))
