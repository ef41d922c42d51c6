"""The golden set's file: exact, repeatable, and without code in it."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.domain.contract import ActionKind, Contract
from policyctl.domain.golden import Golden
from policyctl.domain.parity import Tolerance
from policyctl.domain.tensor import DTYPES, TensorSpec
from policyctl.errors import UsageError

CONTRACT = Contract(
    (TensorSpec("observation", "float32", (3,)),), (TensorSpec("action", "int64", (1,)),), ActionKind.DISCRETE
)


def _golden(rows: int = 4) -> Golden:
    rng = np.random.default_rng(0)
    return Golden(
        {"observation": rng.normal(size=(rows, 3)).astype(np.float32)},
        {"action": np.arange(rows)[:, None]},
        Tolerance(1e-3, 1e-4, 1e-5),
    )


def _npz(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


GOOD = {
    "observation/observation": np.zeros((2, 3), np.float32),
    "output/action": np.zeros((2, 1), np.int64),
    "tolerance": np.array([1e-4, 1e-4, 1e-4]),
}


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(DTYPES), st.lists(st.integers(1, 3), min_size=1, max_size=3), st.integers(1, 4), st.binary())
def test_a_golden_set_survives_its_file(dtype: str, shape: list[int], rows: int, seed: bytes) -> None:
    """Arrays of every dtype and shape come back bit by bit, with the tolerance."""
    spec = TensorSpec("observation", dtype, tuple(shape))
    contract = Contract((spec,), CONTRACT.outputs, ActionKind.DISCRETE)
    rng = np.random.default_rng(list(seed))
    array = rng.integers(0, 2, size=(rows, *shape)).astype(dtype)
    golden = Golden({"observation": array}, {"action": np.zeros((rows, 1), np.int64)}, Tolerance(0.5, 0.25, 0.125))
    found = Golden.from_bytes(golden.to_bytes(), contract)
    assert found.tolerance == golden.tolerance
    assert found.rows == rows
    assert found.observations["observation"].tobytes() == array.tobytes()
    assert found.observations["observation"].dtype == array.dtype


def test_equal_golden_sets_give_equal_bytes() -> None:
    """Neither the clock, nor the order of names, nor the memory layout is in the file."""
    golden = _golden()
    two = Contract((*CONTRACT.observations, TensorSpec("b", "float32", (1,))), CONTRACT.outputs, ActionKind.DISCRETE)
    b = np.ones((4, 1), np.float32)
    first = Golden({"b": b, **golden.observations}, golden.outputs, golden.tolerance)
    fortran = {"observation": np.asfortranarray(golden.observations["observation"]), "b": b}
    second = Golden(fortran, golden.outputs, golden.tolerance)
    assert first.to_bytes() == second.to_bytes()
    assert Golden.from_bytes(first.to_bytes(), two).rows == 4
    with zipfile.ZipFile(io.BytesIO(first.to_bytes())) as archive:
        assert {i.date_time for i in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_pickle_in_a_golden_set_is_refused_and_not_run(tmp_path) -> None:
    """An object array, a bare pickle and a pickle in an entry are refused before any of their code runs."""
    mark = tmp_path / "executed"
    bomb = np.empty((2, 3), dtype=object)
    bomb[0, 0] = Bomb(str(mark))
    pickled = io.BytesIO()
    with zipfile.ZipFile(pickled, "w") as archive:
        archive.writestr("observation/observation.npy", pickle.dumps(Bomb(str(mark))))
        archive.writestr("tolerance.npy", pickle.dumps(Bomb(str(mark))))
    for content in (
        _npz(**{**GOOD, "observation/observation": bomb}),
        _npz(**{**GOOD, "tolerance": np.array([Bomb(str(mark))] * 3)}),
        _npz(**GOOD, more=bomb),
        pickle.dumps(Bomb(str(mark))),
        pickled.getvalue(),
    ):
        with pytest.raises(UsageError, match="golden set"):
            Golden.from_bytes(content, CONTRACT)
    assert not mark.exists()


def _single_npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def _stranger() -> bytes:
    buffer = io.BytesIO(_npz(**GOOD))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("readme.txt", "hello")
    return buffer.getvalue()


def _raw_entry(name: str) -> bytes:
    buffer = io.BytesIO(_npz(**{k: v for k, v in GOOD.items() if k != name}))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(name + ".npy", "hello")
        archive.writestr(name, "hello")
    return buffer.getvalue()


WRONG = {
    "empty": (b"", "readable"),
    "text": (b"hello", "readable"),
    "a single array": (_single_npy(), "golden set"),
    "an empty archive": (_npz(), "tolerance"),
    "a stranger": (_stranger(), "readme"),
    "a raw tolerance": (_raw_entry("tolerance"), "golden set"),
    "a raw observation": (_raw_entry("observation/observation"), "golden set"),
    "no observation": (_npz(**{k: v for k, v in GOOD.items() if "observation" not in k}), "observation is missing"),
    "no output": (_npz(**{k: v for k, v in GOOD.items() if "output" not in k}), "output/action is missing"),
    "no tolerance": (_npz(**{k: v for k, v in GOOD.items() if "tolerance" not in k}), "tolerance"),
    "an extra array": (_npz(**GOOD, more=np.zeros(2)), "more is not in the contract"),
    "another dtype": (_npz(**{**GOOD, "observation/observation": np.zeros((2, 3))}), "float64"),
    "another byte order": (_npz(**{**GOOD, "observation/observation": np.zeros((2, 3), ">f4")}), "float32"),
    "another shape": (_npz(**{**GOOD, "observation/observation": np.zeros((2, 4), np.float32)}), r"\(2, 4\)"),
    "no batch dimension": (_npz(**{**GOOD, "observation/observation": np.zeros((), np.float32)}), "contract says"),
    "no rows": (
        _npz(
            **{
                **GOOD,
                "observation/observation": np.zeros((0, 3), np.float32),
                "output/action": np.zeros((0, 1), np.int64),
            }
        ),
        "n >= 1",
    ),
    "other rows": (_npz(**{**GOOD, "output/action": np.zeros((3, 1), np.int64)}), "length"),
    "a negative tolerance": (_npz(**{**GOOD, "tolerance": np.array([-1.0, 0, 0])}), "atol"),
    "a NaN tolerance": (_npz(**{**GOOD, "tolerance": np.array([0.0, np.nan, 0])}), "rtol"),
    "a tolerance of text": (_npz(**{**GOOD, "tolerance": np.array(["a", "b", "c"])}), "tolerance"),
    "a complex tolerance": (_npz(**{**GOOD, "tolerance": np.array([1j, 0, 0])}), "tolerance"),
    "two tolerances": (_npz(**{**GOOD, "tolerance": np.zeros(2)}), "tolerance"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_golden_set_of_the_contract_is_refused(name: str) -> None:
    """Each misfit is a usage error that names it, never a traceback."""
    content, named = WRONG[name]
    with pytest.raises(UsageError, match=named):
        Golden.from_bytes(content, CONTRACT)


def test_a_damaged_golden_set_is_refused_or_read_and_nothing_else() -> None:
    """Whatever single byte of the file is damaged or cut off, the answer is a golden set or a usage error."""
    content = _golden().to_bytes()
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index in range(len(content)):
            for changed in (
                *(content[:index] + bytes([content[index] ^ mask]) + content[index + 1 :] for mask in (1, 0x80, 0xFF)),
                content[:index],
            ):
                try:
                    Golden.from_bytes(changed, CONTRACT)
                except UsageError:
                    refused += 1
    assert refused > len(content)


def test_an_archive_that_unpacks_to_more_than_memory_has_is_refused_by_what_it_declares() -> None:
    """A quarter of a megabyte of zeros that would fill a quarter of a gigabyte is not unpacked."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as entry:
        for _ in range(257):
            entry.write(bytes(1 << 20))
    with pytest.raises(UsageError, match="its arrays take 269484032 bytes, expected at most 268435456"):
        Golden.from_bytes(buffer.getvalue(), CONTRACT)
