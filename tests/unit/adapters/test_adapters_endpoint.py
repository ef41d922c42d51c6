"""The endpoint file: found while its server lives, private, and never printed."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import asdict, replace

import pytest

from policyctl.adapters import endpoint as endpoints
from policyctl.adapters import lock
from policyctl.adapters.endpoint import Endpoint
from policyctl.adapters.repository import Repository

KEY = "s3cret-key"


def _endpoint(**changes) -> Endpoint:
    values = {"http": "127.0.0.1:8000", "grpc": "127.0.0.1:8001", "api_key": KEY, "server_id": "s"}
    return Endpoint(**{**values, "pid": 7, "supervisor_pid": 6, **changes})


@pytest.fixture
def served(repository) -> Iterator[Repository]:
    """A repository whose supervisor lives."""
    with lock.hold(endpoints.supervisor_lock(repository), doing="policyctl serve"):
        yield repository


def test_what_was_written_is_read(served) -> None:
    """Another command finds the server with its key, and the run of the supervisor that wrote it."""
    repository = served
    endpoints.write(repository, _endpoint())
    found = endpoints.read(repository)
    assert replace(found, supervisor="", pid_namespace="") == _endpoint()
    assert found.supervisor == endpoints.THIS_PROCESS
    endpoints.clear(repository)
    endpoints.clear(repository)
    assert endpoints.read(repository) is None


def test_only_its_owner_may_read_it(repository) -> None:
    """Also where an older file had another mode."""
    path = endpoints.path_in(repository)
    path.write_text("{}")
    path.chmod(0o666)
    endpoints.write(repository, _endpoint())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_key_is_never_shown() -> None:
    """Neither `repr` nor a format of the endpoint shows it."""
    assert KEY not in repr(_endpoint())
    assert KEY not in f"{_endpoint()} {[_endpoint()]}"


def test_a_server_whose_supervisor_is_dead_is_not_found(repository) -> None:
    """A file that a killed `policyctl serve` left misleads nobody, even if another process has its id by now."""
    endpoints.write(repository, _endpoint(supervisor_pid=os.getpid()))
    assert endpoints.read(repository) is None


def test_process_ids_of_another_container_name_no_process_here(served) -> None:
    """A server in another PID namespace is found, and none of its ids is taken for a process that is here."""
    endpoints.write(served, _endpoint(pid=os.getpid()))
    path = endpoints.path_in(served)
    path.write_text(json.dumps({**json.loads(path.read_text()), "pid_namespace": "pid:[1]"}))
    found = endpoints.read(served)
    assert (found.pid, found.supervisor_pid, found.grpc) == (0, 0, "127.0.0.1:8001")


def _text(**changes) -> str:
    return json.dumps({**asdict(_endpoint()), **changes})


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "5", "{}", '{"http": "x"}', "\udcff", "[" * 100_000),
        *(_text(more=1), _text(supervisor_pid="1"), _text(supervisor_pid=None)),
        *(_text(http=5), _text(api_key=None)),
    ],
    ids=range(14),
)
def test_a_file_that_makes_no_sense_is_no_server(served, text: str) -> None:
    """Damage, or a file of another version, reads as no server and never as a traceback."""
    endpoints.path_in(served).write_bytes(text.encode(errors="surrogateescape"))
    assert endpoints.read(served) is None
