"""Pickles of data are read without running them, and cannot hurt the process that reads them."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import OrderedDict, deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import exporter_models as models
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from policyctl.errors import UsageError
from policyctl_exporters.inert_pickle import Inert, read_inert
from policyctl_exporters.made_spaces import rebuild_space
from policyctl_exporters.normalizer import normalizer_of, read_normalizer

FUZZ = Path(__file__).with_name("fuzz_pickles.py")
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
NUMBERS = st.sampled_from(["?", "i1", "i4", "i8", "u1", "u8", "f2", "f4", "f8", "c8", "c16", ">f8", ">i2"])


class ForgedDtype:
    """Pickles to a dtype with flags that its maker chose."""

    def __init__(self, code: str, flags: int) -> None:
        self.code, self.flags = code, flags

    def __reduce__(self) -> Any:
        return np.dtype, (self.code, False, True), (3, "|", None, None, None, -1, -1, self.flags)


class ForgedArray:
    """Pickles to an array of raw bytes under any dtype."""

    def __init__(self, dtype: Any, shape: tuple[int, ...], raw: bytes) -> None:
        self.dtype, self.shape, self.raw = dtype, shape, raw

    def __reduce__(self) -> Any:
        make = np.core.multiarray._reconstruct  # type: ignore[attr-defined]
        return make, (np.ndarray, (0,), b"b"), (1, self.shape, self.dtype, False, self.raw)


def test_raw_pointers_under_a_dtype_of_objects_are_refused(tmp_path: Path) -> None:
    """A dtype of objects turns bytes into pointers; a process that reads one refuses in words and does not crash."""
    wrapper = VecNormalize(DummyVecEnv([lambda: models.SpacesOnly(models.VECTOR, spaces.Discrete(2))]))
    forged: Any = ForgedArray(ForgedDtype("O8", flags=0), (4,), b"A" * 32)
    wrapper.obs_rms.mean = forged
    path = tmp_path / "vecnormalize.pkl"
    wrapper.save(str(path))
    code = (
        "import sys; from policyctl_exporters.normalizer import read_normalizer as r; r(sys.argv[1], trust_pickle=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], check=False, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1, done
    assert "UsageError: vecnormalize.pkl is not a VecNormalize: a pickled dtype is '|O8'" in done.stderr


@pytest.mark.parametrize(
    ("dtype", "shape", "raw"),
    [
        (np.dtype("f8"), (1 << 40,), b"A" * 8),
        (np.dtype("f8"), (2,), b"A" * 8),
        (np.dtype("f8"), (-1,), b"A" * 8),
        (np.dtype([("a", "f8")]), (1,), b"A" * 8),
        (np.dtype("V8"), (1,), b"A" * 8),
        (np.dtype("S8"), (1,), b"A" * 8),
    ],
)
def test_an_array_that_its_bytes_do_not_fill_is_refused(dtype: Any, shape: tuple[int, ...], raw: bytes) -> None:
    """Sizes come from the bytes that are there, never from what the pickle claims."""
    content = pickle.dumps({"array": ForgedArray(dtype, shape, raw)})
    with pytest.raises((ValueError, UsageError), match="pickled"):
        np.asarray(read_inert(content, what="x")["array"])


@given(
    arrays.arrays(NUMBERS.map(np.dtype), arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)),
    st.sampled_from(PROTOCOLS),
    st.sampled_from("CF"),
)
def test_numeric_arrays_are_read_as_numpy_reads_them(array: Any, protocol: int, order: Any) -> None:
    """Every numeric dtype, byte order, memory order and protocol gives the same values."""
    array = np.asarray(array, order=order)
    found = np.asarray(read_inert(pickle.dumps(array, protocol), what="x"))
    np.testing.assert_array_equal(found, array)
    assert (found.shape, found.dtype) == (array.shape, array.dtype.newbyteorder("="))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values_and_containers_are_read_as_they_are(protocol: int) -> None:
    """What training keeps in plain containers comes back, and sets and queues as lists."""
    value = {
        "numbers": [1, -(2**70), 1.5, float("inf"), True, None],
        "text": ("a", "\u20ac", b"\x00\xff", ""),
        "scalars": [np.float64(2.5), np.int64(3), np.bool_(True)],
        "ordered": OrderedDict(a=1, b=[2]),
        "queue": deque([1, 2], maxlen=5),
        "set": {7},
        "shared": [[], []],
    }
    found = read_inert(pickle.dumps(value, protocol), what="x")
    assert found == {**value, "queue": [1, 2], "set": [7]}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_statistics_of_every_protocol_are_read(protocol: int, tmp_path: Path) -> None:
    """Mean and variance are those of the wrapper, whatever protocol saved it."""
    wrapper = VecNormalize(DummyVecEnv([lambda: models.SpacesOnly(models.VECTOR, spaces.Discrete(2))]))
    wrapper.reset()
    path = tmp_path / "vecnormalize.pkl"
    path.write_bytes(pickle.dumps(wrapper, protocol))
    found = read_normalizer(path, trust_pickle=True)[0]
    assert found is not None
    np.testing.assert_array_equal(found.statistics[""].mean, wrapper.obs_rms.mean)
    np.testing.assert_array_equal(found.statistics[""].var, wrapper.obs_rms.var)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "space",
    [
        models.VECTOR,
        models.IMAGE,
        models.MIXED,
        spaces.Box(-1.0, 1.0, (2, 3), np.float64),
        spaces.Discrete(4, start=2),
        spaces.MultiDiscrete([3, 2]),
        spaces.MultiBinary(5),
        spaces.MultiBinary([2, 3]),
    ],
)
def test_spaces_of_every_protocol_are_rebuilt(space: Any, protocol: int) -> None:
    """A space comes back equal to the one that was pickled."""
    assert rebuild_space(read_inert(pickle.dumps(space, protocol), what="x"), what="x") == space


def _space(kind: str, **state: Any) -> Inert:
    made = Inert(f"gymnasium.spaces.{kind}")
    made.build(state)
    return made


def _doubled(levels: int) -> list[object]:
    """A list that holds the list below it twice: small in a pickle, endless as an array."""
    value: list[object] = [1.0, 1.0]
    for _ in range(levels):
        value = [value, value]
    return value


def test_a_space_that_names_an_absurd_size_or_holds_itself_is_refused() -> None:
    """Sizes that nothing backs are bounded, and a Dict in a Dict is no policy's space."""
    endless = _space("Dict", spaces={})
    endless.spaces["again"] = endless  # type: ignore[attr-defined]
    for space in (
        _space("Discrete", n=1 << 60),
        _space("MultiBinary", n=(1 << 30, 1 << 30)),
        _space("MultiBinary", n=1 << 40),
        _space("MultiBinary", n=_doubled(40)),
        _space("Box", low=[[0.0]], high=[[1.0]]),
        _space("Box", low=None),
        _space("Discrete"),
    ):
        with pytest.raises(UsageError, match="x: the pickled"):
            rebuild_space(space, what="x")
    statistics = SimpleNamespace(obs_rms=SimpleNamespace(mean=_doubled(40), var=1.0), clip_obs=10.0, epsilon=1e-8)
    with pytest.raises(UsageError, match="x is not a VecNormalize: found a list in a list"):
        normalizer_of(statistics, "x")
    with pytest.raises(Exception, match=r"x\[again\]: spaces of kind gymnasium.spaces.Dict are not supported"):
        rebuild_space(endless, what="x")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b".",
        b"\x80\x04",
        b"\x80\x04]\x94h\x05.",
        b"\x80\x04P1\n.",
        b"\x80\x04\x82\x01.",
        b"(" * 100_000 + b"t" * 100_000 + b".",
        b"]" + b"\x940h\x00h\x00" * 600_000 + b".",
        b"r\xff\xff\xff\x7f.",
        b"\x96" + (1 << 50).to_bytes(8, "little") + b".",
    ],
    ids=["empty", "stop", "no-end", "memo", "persistent", "extension", "deep", "long", "memo-index", "claimed-size"],
)
def test_a_pickle_that_is_none_is_refused_in_words(content: bytes) -> None:
    """Nothing but a refusal comes of it, however it is broken."""
    try:
        read_inert(content, what="x.pkl")
    except UsageError as refusal:
        assert str(refusal).startswith("x.pkl: ")


def test_forged_pickles_never_end_the_process(tmp_path: Path) -> None:
    """Mutated real files and random programs are answered or refused, in bounded memory."""
    wrapper = VecNormalize(DummyVecEnv([lambda: models.SpacesOnly(models.VECTOR, spaces.Discrete(2))]))
    paths = []
    for protocol in PROTOCOLS:
        for name, value in (("normalizer", wrapper), ("space", models.MIXED), ("box", models.VECTOR)):
            paths.append(tmp_path / f"{name}-{protocol}.pkl")
            paths[-1].write_bytes(pickle.dumps(value, protocol))
    done = subprocess.run(
        [sys.executable, str(FUZZ), "1500", "0", *map(str, paths)],
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout}\n{done.stderr[-3000:]}"
