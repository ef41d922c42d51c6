"""Shared memory of a client: who owns it, who may clear it away."""

from __future__ import annotations

import itertools
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import grpc
import numpy as np
import pytest

from policyctl.client import AsyncPolicyClient, PolicyClient, regions
from policyctl.client.grpc_memory import SharedTensors
from policyctl.client.regions import Layout, Regions, abandoned
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import UnsupportedError, UsageError

OUTPUTS = (TensorSpec("action", "float32", (2,)), TensorSpec("value", "float64", (1,)))


def layout(rows: int) -> Layout:
    return Layout.of({"observation": np.zeros((rows, 5), np.float32), "goal": np.zeros((rows, 1), np.int64)}, OUTPUTS)


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_tensors_of_one_call_do_not_overlap(rows: int) -> None:
    """Every tensor has its place in the region, aligned for its type."""
    found = layout(rows)
    spans = sorted((p.offset, p.offset + p.size_bytes) for p in (*found.inputs, *found.outputs))
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans))
    assert spans[-1][1] <= found.size_bytes
    assert all(p.offset % 8 == 0 for p in (*found.inputs, *found.outputs))


def test_what_is_written_is_read_back_as_a_copy(tmp_path: Path) -> None:
    """An answer stays what it was when the region is used again."""
    owner = Regions(tmp_path)
    region = owner.take(layout(1).size_bytes)
    assert region is not None
    found = layout(1)
    first = {"observation": np.arange(5, dtype=np.float32)[None], "goal": np.array([[7]])}
    region.write(found, first)
    kept = region.read(found.inputs[0])
    region.write(found, {"observation": np.zeros((1, 5), np.float32), "goal": np.array([[8]])})
    assert kept.tolist() == [[0, 1, 2, 3, 4]]
    assert region.read(found.inputs[1]).tolist() == [[8]]
    owner.close()


def test_a_region_is_used_again_and_never_by_two_calls(tmp_path: Path) -> None:
    """Regions are reused from call to call; calls at the same time get different ones."""
    owner = Regions(tmp_path)
    one, two = owner.take(100), owner.take(100)
    assert one is not None
    assert two is not None
    assert one is not two
    owner.give(one)
    assert owner.take(200) is one
    assert len(owner.all()) == 2
    owner.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == []


def test_a_region_whose_call_was_not_answered_is_not_used_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server may still write to it; it is given up only after it has cooled."""
    owner = Regions(tmp_path)
    region = owner.take(100)
    assert region is not None
    owner.lay_aside(region)
    assert owner.take(100) is not region
    assert list(owner.cooled()) == []
    monkeypatch.setattr(regions, "COOLING_S", 0.0)
    assert list(owner.cooled()) == [region]
    owner.close()


def test_beyond_the_limit_there_is_none_instead_of_ever_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that never answers does not fill the memory: calls then go over the wire."""
    monkeypatch.setattr(regions, "MOST_REGIONS", 2)
    owner = Regions(tmp_path)
    for _ in range(2):
        region = owner.take(100)
        assert region is not None
        owner.lay_aside(region)
    assert owner.take(100) is None
    owner.close()


def test_a_sweep_takes_what_a_killed_client_left_and_nothing_of_a_living_one(tmp_path: Path) -> None:
    """A SIGKILL leaves files whose lock is free; those go, and a living client's stay."""
    living = Regions(tmp_path)
    mine = living.take(100)
    assert mine is not None
    code = f"""
        import os, pathlib, signal
        from policyctl.client.regions import Regions
        owner = Regions(pathlib.Path({str(tmp_path)!r}))
        print(owner.take(100).name, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    left = done.stdout.strip()
    assert left in sorted(p.name for p in tmp_path.iterdir())
    with abandoned(tmp_path) as names:
        assert names == (left,)
    assert sorted(p.name for p in tmp_path.iterdir()) == [mine.name]
    living.close()


def test_a_process_that_ends_without_closing_takes_its_files_along(tmp_path: Path) -> None:
    """Only a kill leaves files behind."""
    code = f"""
        import pathlib
        from policyctl.client.regions import Regions
        owner = Regions(pathlib.Path({str(tmp_path)!r}))
        owner.take(100)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == []


def test_a_full_file_system_is_an_error_and_not_a_signal_later(tmp_path: Path) -> None:
    """Memory is taken when the region is made, so that no page is missing when it is written."""
    owner = Regions(tmp_path)
    with pytest.raises(UnsupportedError, match="does not give"):
        owner.take(1 << 50)
    assert sorted(p.name for p in tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [PolicyClient, AsyncPolicyClient])
def test_shared_memory_over_http_is_refused(kind: type[PolicyClient] | type[AsyncPolicyClient]) -> None:
    """It is there over gRPC alone, and says so at once."""
    with pytest.raises(UsageError, match="gRPC alone"):
        kind("walker", url="127.0.0.1:8000", protocol="http", shared_memory=True)


class _Refusal(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__()
        self.code, self.details = (lambda: code), (lambda: details)


@pytest.mark.parametrize(
    ("code", "details", "error"),
    [
        (grpc.StatusCode.UNAVAILABLE, "client shared memory is disabled (--allow-client-shm=false)", UnsupportedError),
        (grpc.StatusCode.INVALID_ARGUMENT, "Unable to open shared memory region", UnsupportedError),
        (grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses", _Refusal),
    ],
)
def test_a_server_that_forbids_shared_memory_is_named_whatever_its_code(tmp_path, code, details, error) -> None:
    """Triton 26.04 and later forbid it unless they are started otherwise; a lost connection is something else."""
    shared = SharedTensors("walker", "127.0.0.1:8001", SimpleNamespace(SystemSharedMemoryRegister=len), None)
    region = Regions(tmp_path).take(1)
    assert region is not None
    steps = shared._register(region, time.monotonic() + 60)
    next(steps)
    with pytest.raises(error) as refused:
        steps.throw(_Refusal(code, details))
    if error is UnsupportedError:
        assert "--allow-client-shm=true" in refused.value.remedy
        assert details in refused.value.problem
