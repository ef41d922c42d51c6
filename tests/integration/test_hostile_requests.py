"""What a client sends to end the server, to fill its memory, or to reach it from a web page; on the real Triton."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from embedded import PATIENCE_S, Embedded, client_file, embedded, needs_guard, wait_for
from tritonclient.grpc import service_pb2, service_pb2_grpc

from policyctl.claims import FOLDER
from policyctl.client import PolicyClient
from policyctl.serving import shared_memory

pytestmark = [pytest.mark.server, needs_guard]

INFER = "/v2/models/walker/infer"
KEY = f"policyctl-client-{os.getpid()}-hostile"
MIB = 1 << 20


@pytest.fixture(scope="module", params=["off", "auto"], ids=["python", "native"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """A server of walker, whose requests have at most 2 MiB."""
    with pytest.MonkeyPatch.context() as patch, embedded(tmp_path_factory.mktemp("hostile")) as server:
        patch.setenv("POLICYCTL_SERVING__NATIVE", request.param)
        patch.setenv("POLICYCTL_SERVER__MAX_REQUEST_MIB", "2")
        patch.setenv("POLICYCTL_SERVER__HTTP_HOSTS", '["triton.internal"]')
        server.publish("1.0.0", 1)
        server.start()
        server.run("promote", "walker", "1.0.0")
        yield server


@pytest.fixture(autouse=True)
def lives(served: Embedded) -> Iterator[None]:
    """After each test the same process answers, with memory of the same order."""
    process = psutil.Process(served.endpoint["pid"])
    before = process.memory_info().rss
    yield
    assert post(served, document())[0] == 200
    assert served.endpoint["pid"] == process.pid
    assert process.memory_info().rss < before + 128 * MIB


@pytest.fixture
def region() -> Iterator[str]:
    """The name of a file of one page in /dev/shm."""
    with client_file(KEY, np.full(1024, 0.5, np.float32).tobytes()):
        yield KEY


def document(shape: object = (1, 4), data: object = (0.1, 0.2, 0.3, 0.4), **parameters: object) -> bytes:
    tensor = {"name": "observation", "shape": shape, "datatype": "FP32"}
    tensor |= {"parameters": parameters} if parameters else {"data": data}
    return json.dumps({"inputs": [tensor]}).encode()


def port(served: Embedded, protocol: str = "http") -> int:
    return int(served.endpoint[protocol].rpartition(":")[2])


def post(served: Embedded, body: object, path: str = INFER, headers: Mapping[str, str] = {}) -> tuple[int, str]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port(served), timeout=PATIENCE_S)) as connection:
        connection.request("POST", path, body, dict(headers))  # type: ignore[arg-type]
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def raw(served: Embedded, request: bytes, protocol: str = "http") -> bytes:
    with socket.create_connection(("127.0.0.1", port(served, protocol)), timeout=PATIENCE_S) as connection:
        connection.sendall(request)
        return connection.recv(4096)


def register(served: Embedded, name: str, key: str, size: int = 4096, offset: int = 0) -> tuple[int, str]:
    asked = json.dumps({"key": key, "offset": offset, "byte_size": size})
    return post(served, asked, f"/v2/systemsharedmemory/region/{name}/register")


def unregister(served: Embedded, name: str) -> None:
    """Triton 2.51 refuses for a moment: a request whose answer has just come still has its region."""

    def is_forgotten() -> bool:
        status, text = post(served, "", f"/v2/systemsharedmemory/region/{name}/unregister")
        assert status == 200 or "in use" in text, text
        return status == 200

    wait_for(is_forgotten)


@contextlib.contextmanager
def stub(served: Embedded) -> Iterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    with grpc.insecure_channel(served.endpoint["grpc"], options=[("grpc.max_send_message_length", -1)]) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def by_grpc(served: Embedded, shape: list[int], size: int, **options: object) -> grpc.RpcError:
    """How a request of `size` bytes for `shape` is refused."""
    request = service_pb2.ModelInferRequest(model_name="walker", raw_input_contents=[bytes(size)])
    request.inputs.add(name="observation", datatype="FP32", shape=shape)
    with stub(served) as service, pytest.raises(grpc.RpcError) as refused:
        service.ModelInfer(request, timeout=PATIENCE_S, **options)
    return refused.value


@pytest.mark.parametrize(
    "shape",
    [
        [2**31, 4],  # Triton ends: it cannot allocate
        [10**8, 4],  # Triton takes 1.6 GB
        [2**62 + 1, 1],  # four bytes, after an overflow: Triton writes behind them
        [2**62, 1],
        [2**60 + 1, 4],  # 16 bytes, after an overflow
        [1] * 65,
    ],
)
def test_a_shape_that_asks_for_too_much_is_refused_before_anything_is_allocated(
    served: Embedded, shape: list[int]
) -> None:
    """The 87 bytes that end Triton 2.51, and their kin; the answer names the input."""
    status, text = post(served, document(shape, [1.0, 2.0, 3.0]))
    assert status == 400
    assert "input 'observation'" in text
    refused = by_grpc(served, shape, 16)
    assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "input 'observation'" in refused.details()


def test_a_negative_dimension_is_refused(served: Embedded) -> None:
    """JSON has no such shape for Triton; gRPC has."""
    assert "-1, which is below 0" in by_grpc(served, [-1, 4], 16).details()
    assert post(served, document([-1, 4]))[0] == 500


@pytest.mark.parametrize("path", [INFER, "/v2/systemsharedmemory/region/x/register", "/v2/models/walker/generate"])
def test_json_that_nests_deeply_is_refused(served: Embedded, path: str) -> None:
    """Triton reads it by recursion, and ends where its stack does. Brackets in a text do not nest."""
    status, text = post(served, b"[" * 1_000_000, path)
    assert (status, "nests deeper than 64" in text) == (400, True)
    assert post(served, document()[:-1] + b', "id": "' + b"[{" * 100 + b'"}')[0] == 200


def test_a_body_that_is_too_long_is_never_kept_and_its_sender_hears_why(served: Embedded) -> None:
    """With a length or in chunks; the same connection answers the next request."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port(served), timeout=PATIENCE_S)) as connection:
        for body in (b" " * 200 * MIB, iter([b" " * MIB] * 200), iter([b" " * (2 * MIB + 1)])):
            connection.request("POST", INFER, body)
            answer = connection.getresponse()
            assert answer.status == 413
            assert b"POLICYCTL_SERVER__MAX_REQUEST_MIB" in answer.read()
            for good in (document(), document() + b" " * MIB):
                connection.request("POST", INFER, good)
                answer = connection.getresponse()
                assert answer.status == 200
                answer.read()


def test_a_grpc_message_that_is_too_long_is_refused(served: Embedded) -> None:
    """Triton's own limit is 2 GiB."""
    refused = by_grpc(served, [1 << 17, 4], 3 * MIB)
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in refused.details()


def test_what_is_compressed_is_refused(served: Embedded) -> None:
    """It may become a thousand times as much in memory."""
    assert post(served, document(), headers={"Content-Encoding": "gzip"})[0] == 415
    refused = by_grpc(served, [1, 4], 16, compression=grpc.Compression.Gzip)
    assert refused.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("lengths", [(50_000_000_000, 20), (21, 20), (4_294_967_316, 20)])
def test_a_length_that_contradicts_the_body_is_refused(served: Embedded, lengths: tuple[int, int]) -> None:
    """Triton reads as much as the first header says, and the body has as much as the last one says."""
    head = "".join(f"Content-Length: {length}\r\n" for length in lengths)
    answer = raw(served, f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n".encode() + b" " * 20)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Content-Length" in answer


def test_headers_without_end_are_cut_off(served: Embedded) -> None:
    """The connection is closed after 64 KiB of them."""
    request = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\n".encode() + b"a: b\r\n" * 1_000_000
    with contextlib.suppress(ConnectionError):
        assert raw(served, request) == b""


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://example.org"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Host": "example.org"}, 403),
        ({"Host": "example.org:8000"}, 403),
        ({"Host": "127.0.0.1.example.org"}, 403),
        ({"Host": "localhost:example.org"}, 403),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]:1"}, 200),
        ({"Host": "10.1.2.3"}, 200),
        ({"Host": "Triton.internal:8000"}, 200),
        ({"Host": socket.gethostname()}, 200),
    ],
)
def test_a_web_page_is_not_answered(served: Embedded, headers: dict[str, str], status: int) -> None:
    """Neither one of another site, nor one whose name was made to resolve to this machine; metrics likewise."""
    assert post(served, document(), headers=headers)[0] == status
    lines = "".join(f"{name}: {value}\r\n" for name, value in ({"Host": "localhost"} | headers).items())
    metrics = raw(served, f"GET /metrics HTTP/1.1\r\n{lines}\r\n".encode(), "metrics")
    assert metrics.startswith(b"HTTP/1.1 %d " % status)


def test_a_region_that_is_cut_short_harms_its_owner_alone(served: Embedded, region: str) -> None:
    """A request that needs what is gone is refused; an output that has no place any more is lost."""
    assert register(served, "cut", region)[0] == 200
    inside = {"shared_memory_region": "cut", "shared_memory_byte_size": 16}
    assert post(served, document(**inside))[0] == 200
    os.truncate(FOLDER / region, 0)
    status, text = post(served, document(**inside))
    assert status in (400, 500)
    assert "observation" in text
    assert "cut short" in text
    output = {"name": "action", "parameters": inside | {"shared_memory_byte_size": 8, "shared_memory_offset": 1024}}
    status, _ = post(served, json.dumps(json.loads(document()) | {"outputs": [output]}))
    assert status == 200
    unregister(served, "cut")


def test_one_file_may_be_two_regions(served: Embedded, region: str) -> None:
    """Triton uses a descriptor again that it has closed: a connection, which a second registration closed."""
    assert register(served, "first", region)[0] == 200
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port(served), timeout=PATIENCE_S)) as bystander:
        bystander.connect()
        for _ in range(3):
            assert register(served, "none", region, size=0)[0] == 400
            assert register(served, "long", region, size=8192)[0] == 400
        assert register(served, "second", region, size=4000, offset=0)[0] == 200
        bystander.request("POST", INFER, document())
        assert bystander.getresponse().status == 200
    for name in ("first", "second"):
        status, _ = post(served, document(shared_memory_region=name, shared_memory_byte_size=16))
        assert status == 200
        unregister(served, name)


def test_registrations_leave_no_open_files(served: Embedded, region: str) -> None:
    """Neither those that succeed nor those that fail."""
    process = psutil.Process(served.endpoint["pid"])

    def attempt() -> int:
        for _ in range(20):
            assert register(served, "short", region, size=8192)[0] == 400
            assert register(served, "right", region)[0] == 200
            unregister(served, "right")
        return sum(KEY in name for name in map(opened, Path(f"/proc/{process.pid}/fd").iterdir()))

    def opened(descriptor: Path) -> str:
        """What it is of; nothing, where the server has closed it meanwhile."""
        try:
            return str(descriptor.readlink())
        except FileNotFoundError:
            return ""

    assert attempt() <= 1


def test_the_servers_own_memory_is_no_region(served: Embedded) -> None:
    """Through it, Triton and its backends pass tensors of everybody."""
    own = f"{shared_memory.prefix_base(served.root)}test"
    (FOLDER / own).write_bytes(bytes(4096))
    try:
        for key in (own, f"/{own}", f"//{own}"):
            assert register(served, "own", key)[0] != 200
    finally:
        (FOLDER / own).unlink()


def test_shared_memory_of_honest_clients_serves(served: Embedded) -> None:
    """The guard lets their regions be."""
    with (
        PolicyClient("walker", url=served.endpoint["grpc"], shared_memory=True, deadline_s=PATIENCE_S) as sharing,
        PolicyClient("walker", url=served.endpoint["grpc"], deadline_s=PATIENCE_S) as plain,
    ):
        for observation in np.random.default_rng(1).uniform(-1, 1, (20, 4)):
            assert np.array_equal(sharing.act(observation).value, plain.act(observation).value)


def test_idle_connections_keep_nobody_out(served: Embedded) -> None:
    """The server may open more files than the usual 1,024."""
    limit = psutil.Process(served.endpoint["pid"]).rlimit(psutil.RLIMIT_NOFILE)
    assert limit[0] >= min(limit[1], 65536)
