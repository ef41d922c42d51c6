"""The endpoint file: found while its server lives, private, and never printed."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import asdict

import pytest

from policyctl.adapters import endpoint as endpoints
from policyctl.adapters.endpoint import Endpoint

KEY = "s3cret-key"


def _endpoint(**changes) -> Endpoint:
    values = {"http": "127.0.0.1:8000", "grpc": "127.0.0.1:8001", "api_key": KEY, "server_id": "s"}
    return Endpoint(**{**values, "supervisor_pid": os.getpid(), **changes})


def test_what_was_written_is_read(repository) -> None:
    """Another command finds the server with its key."""
    endpoints.write(repository, _endpoint())
    assert endpoints.read(repository) == _endpoint()
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
    """Neither `repr` nor a format of the endpoint tells it."""
    assert KEY not in repr(_endpoint())
    assert KEY not in f"{_endpoint()} {[_endpoint()]}"


def test_a_server_whose_supervisor_is_dead_is_not_found(repository) -> None:
    """A file that a killed `policyctl serve` left behind misleads nobody."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    endpoints.write(repository, _endpoint(supervisor_pid=child))
    assert endpoints.read(repository) is None


def _text(**changes) -> str:
    return json.dumps({**asdict(_endpoint()), **changes})


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "5", "{}", '{"http": "x"}', "\udcff", "[" * 100_000),
        *(_text(more=1), _text(supervisor_pid="1"), _text(supervisor_pid=None), _text(supervisor_pid=0)),
        *(_text(supervisor_pid=-1), _text(supervisor_pid=10**30), _text(http=5), _text(api_key=None)),
    ],
    ids=range(17),
)
def test_a_file_that_makes_no_sense_is_no_server(repository, text: str) -> None:
    """Damage, or a file of another version, reads as no server and never as a traceback."""
    endpoints.path_in(repository).write_bytes(text.encode(errors="surrogateescape"))
    assert endpoints.read(repository) is None
