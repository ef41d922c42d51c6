"""Triton's trace files: every number read back, and nothing believed that a client could have forged."""

from __future__ import annotations

import numpy as np
import pytest

from policyctl.adapters.tracing import TraceFiles, parse


def _start(number: int = 1, request: bytes = b"robot/1", slot: int = 2) -> bytes:
    head = b'{"id":%d,"model_name":"walker","model_version":%d,"request_id":"%s"}' % (number, slot, request)
    return head + b',{"id":%d,"timestamps":[{"name":"REQUEST_START","ns":%d}]}' % (number, 1000 + number)


def _tensor(name: bytes, data: bytes, shape: bytes, dtype: bytes, *, number: int = 1, output: bool = False) -> bytes:
    activity = b"TENSOR_BACKEND_OUTPUT" if output else b"TENSOR_QUEUE_INPUT"
    return b'{"id":%d,"activity":"%s","tensor":{"name":"%s","data":"%s","shape":"%s","dtype":"%s"}}' % (
        number,
        activity,
        name,
        data,
        shape,
        dtype,
    )


def _file(*pieces: bytes) -> bytes:
    return b"[" + b",".join(pieces) + b"]"


WHOLE = _file(
    _start(),
    _tensor(b"observation", b"0.333333,-1e-08", b"1,2", b"FP32"),
    _tensor(b"action", b"-3", b"1,1", b"INT64", output=True),
)


def test_a_request_is_read_with_its_tensors() -> None:
    """Version, request id, time, inputs and outputs, in their dtypes."""
    (found,) = parse(WHOLE)
    assert (found.served, found.slot, found.request_id, found.start_ns) == ("walker", 2, "robot/1", 1001)
    np.testing.assert_array_equal(found.inputs["observation"], np.array([[0.333333, -1e-08]], np.float32))
    np.testing.assert_array_equal(found.outputs["action"], np.array([[-3]], np.int64))


@pytest.mark.parametrize(
    ("dtype", "text", "expected"),
    [
        ("BOOL", b"1,0,1", np.array([True, False, True])),
        ("INT64", b"4611686018427387905,-3,0", np.array([2**62 + 1, -3, 0], np.int64)),
        ("UINT64", b"18446744073709551615,0,1", np.array([2**64 - 1, 0, 1], np.uint64)),
        ("UINT16", b"65535,0,1", np.array([65535, 0, 1], np.uint16)),
        ("FP64", b"1e+300,nan,-inf", np.array([1e300, np.nan, -np.inf])),
        ("FP32", b"1,2,3", np.array([1, 2, 3], np.float32)),
        ("UINT8", b"\xc8,A,\x00", np.array([200, 65, 0], np.uint8)),
        ("UINT8", b'",,,"', np.array([34, 44, 34], np.uint8)),
        ("INT8", b"\xfb,],}", np.array([-5, 93, 125], np.int8)),
    ],
)
def test_every_dtype_is_read_as_triton_writes_it(dtype: str, text: bytes, expected) -> None:
    """8-bit elements stand there as raw bytes, a quote, a comma and a bracket among them."""
    (found,) = parse(_file(_start(), _tensor(b"observation", text, b"1,3", dtype.encode())))
    assert found.inputs["observation"].dtype == expected.dtype
    np.testing.assert_array_equal(found.inputs["observation"], expected[None])


@pytest.mark.parametrize(
    ("text", "shape", "dtype"),
    [
        (b"1,2", b"1,3", b"FP32"),
        (b"1,x,3", b"1,3", b"FP32"),
        (b"", b"1,3", b"FP16"),
        (b"1,2,3", b"1,3", b"BYTES"),
        (b"99999999999999999999,0,0", b"1,3", b"INT64"),
        (b"A,B", b"1,3", b"UINT8"),
    ],
)
def test_a_tensor_that_is_not_what_it_says_spoils_its_request_alone(text: bytes, shape: bytes, dtype: bytes) -> None:
    """Half a tensor is not an observation; the next request is unhurt."""
    content = _file(
        _start(),
        _tensor(b"observation", text, shape, dtype),
        _start(2),
        _tensor(b"observation", b"1,2", b"1,2", b"FP32", number=2),
    )
    assert [each.start_ns for each in parse(content)] == [1002]


def test_a_request_id_that_forges_a_tensor_costs_its_request() -> None:
    """A tensor that stands twice is believed neither time."""
    forged = b'x"},' + _tensor(b"action", b"9", b"1,1", b"INT64", output=True) + b',{"id":7,"model_name":"'
    content = _file(
        _start(1, request=forged),
        _tensor(b"observation", b"1,2", b"1,2", b"FP32"),
        _tensor(b"action", b"1", b"1,1", b"INT64", output=True),
    )
    assert not [each for each in parse(content) if each.outputs.get("action") == 9]


def test_a_file_is_taken_when_it_is_whole_and_then_removed(tmp_path) -> None:
    """A file that Triton is still writing is left until it ends as a whole one does, at whatever byte it stands."""
    files, path = TraceFiles(tmp_path / "trace"), tmp_path / "trace.0"
    for length in range(len(WHOLE)):
        path.write_bytes(WHOLE[:length])
        assert files.take() == ()
        assert path.exists()
    path.write_bytes(WHOLE)
    assert len(files.take()) == 1
    assert not path.exists()


def test_files_of_somebody_else_are_neither_read_nor_removed(tmp_path) -> None:
    """What was there before, and what is called otherwise, stays."""
    before, other = tmp_path / "trace.0", tmp_path / "trace.txt"
    before.write_bytes(WHOLE)
    other.write_bytes(WHOLE)
    files = TraceFiles(tmp_path / "trace")
    assert files.take() == ()
    files.remove()
    assert before.exists() and other.exists()


def test_whatever_came_since_is_removed_at_the_end(tmp_path) -> None:
    """Nothing that a client sent is left lying about."""
    files = TraceFiles(tmp_path / "trace")
    (tmp_path / "trace.5").write_bytes(WHOLE[:50])
    files.remove()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_gone_holds_nothing(tmp_path) -> None:
    """The server may clear it while it starts again."""
    files = TraceFiles(tmp_path / "gone" / "trace")
    assert files.take() == ()
    files.remove()
