"""Pickles run code, so none is read before a person vouched for it."""

from __future__ import annotations

import base64
import json
import pickle
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policyctl.errors import UnsupportedError, UsageError
from policyctl_exporters import export_policy, load_reference
from policyctl_exporters.inert_pickle import read_inert
from policyctl_exporters.made_spaces import rebuild_space
from policyctl_exporters.normalizer import read_normalizer
from policyctl_exporters.pickles import read_trusted


class Touch:
    """A pickle of this creates a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def _with_entry(archive: Path, target: Path, key: str, content: bytes) -> Path:
    with zipfile.ZipFile(archive) as given, zipfile.ZipFile(target, "w") as changed:
        for name in given.namelist():
            body = given.read(name)
            if name == "data":
                data = json.loads(body)
                data[key] = {":type:": "evil", ":serialized:": base64.b64encode(content).decode()}
                body = json.dumps(data).encode()
            changed.writestr(name, body)
    return target


@pytest.mark.parametrize("key", ["observation_space", "policy_class", "policy_kwargs", "lr_schedule"])
def test_an_archive_is_not_unpickled_without_trust(key: str, archive: Path, tmp_path: Path) -> None:
    """A booby-trapped archive is refused, names the flag, and its code does not run."""
    trap = tmp_path / "trapped"
    source = _with_entry(archive, tmp_path / "evil.zip", key, pickle.dumps(Touch(trap)))
    with pytest.raises(UsageError, match="pickles") as refusal:
        export_policy(source, tmp_path / "out")
    assert "--trust-pickle" in refusal.value.remedy
    with pytest.raises(UsageError):
        load_reference(source)
    assert not trap.exists()
    assert not (tmp_path / "out").exists()


def test_the_trap_is_real(archive: Path, tmp_path: Path) -> None:
    """With trust the class entry does run, so the refusals above refuse something."""
    trap = tmp_path / "trapped"
    source = _with_entry(archive, tmp_path / "evil.zip", "policy_class", pickle.dumps(Touch(trap)))
    with pytest.raises(UsageError, match="not a class"):
        export_policy(source, tmp_path / "out", trust_pickle=True)
    assert trap.exists()


@pytest.mark.parametrize("key", ["observation_space", "lr_schedule"])
def test_even_a_trusted_archive_runs_nothing_that_a_policy_does_not_need(
    key: str, archive: Path, tmp_path: Path
) -> None:
    """Spaces are read inertly, and what training left behind is not read at all."""
    trap = tmp_path / "trapped"
    source = _with_entry(archive, tmp_path / "evil.zip", key, pickle.dumps(Touch(trap)))
    if key == "observation_space":
        with pytest.raises(UnsupportedError, match="observation_space"):
            export_policy(source, tmp_path / "out", trust_pickle=True, normalizer=False, formats=["onnx"])
    else:
        export_policy(source, tmp_path / "out", trust_pickle=True, normalizer=False, formats=["onnx"])
    assert not trap.exists()


def test_a_normaliser_is_not_unpickled_without_trust(tmp_path: Path, archive: Path) -> None:
    """The statistics' file is a pickle too; and with trust it is still read inertly."""
    trap, path = tmp_path / "trapped", tmp_path / "vecnormalize.pkl"
    path.write_bytes(pickle.dumps(Touch(trap)))
    with pytest.raises(UsageError, match=r"vecnormalize\.pkl holds pickles"):
        read_normalizer(path, trust_pickle=False)
    with pytest.raises(UsageError, match="not a VecNormalize"):
        read_normalizer(path, trust_pickle=True)
    assert not trap.exists()


def test_weights_that_hold_code_are_refused(archive: Path, tmp_path: Path) -> None:
    """Weights are read as plain tensors only, trusted or not."""
    trap, source = tmp_path / "trapped", tmp_path / "evil.zip"
    with zipfile.ZipFile(archive) as given, zipfile.ZipFile(source, "w") as changed:
        for name in given.namelist():
            body = pickle.dumps(Touch(trap)) if name == "policy.pth" else given.read(name)
            changed.writestr(name, body)
    with pytest.raises(UsageError, match="plain weights"):
        export_policy(source, tmp_path / "out", trust_pickle=True)
    assert not trap.exists()


def _pickled_as(module: str, name: str, state: dict[str, Any]) -> bytes:
    """What a class of a package that is not installed pickled to."""
    made = {}
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        made[".".join(parts[:end])] = types.ModuleType(".".join(parts[:end]))
    kind = type(name, (), {"__module__": module})
    setattr(made[module], name, kind)
    instance = kind()
    instance.__dict__.update(state)
    sys.modules.update(made)
    try:
        return pickle.dumps(instance)
    finally:
        for key in made:
            del sys.modules[key]


def test_spaces_of_old_gym_become_spaces_of_today() -> None:
    """An old pickle lacks newer attributes and drags a random state along; neither matters."""
    from gymnasium import spaces

    noise = np.random.RandomState(0)
    low, high = np.full(3, -1, np.float32), np.full(3, 2, np.float32)
    box = _pickled_as(
        "gym.spaces.box", "Box", {"low": low, "high": high, "shape": (3,), "dtype": None, "np_random": noise}
    )
    discrete = _pickled_as("gym.spaces.discrete", "Discrete", {"n": 3, "shape": (), "_np_random": noise})
    assert rebuild_space(read_inert(box, what="box"), what="box") == spaces.Box(low, high)
    assert rebuild_space(read_inert(discrete, what="d"), what="d") == spaces.Discrete(3)
    assert "gym" not in sys.modules


def test_a_pickled_name_of_old_gym_means_gymnasium() -> None:
    """Classes that a policy's arguments name are found under today's package."""
    import gymnasium

    found = read_trusted(b"cgym.spaces.box\nBox\n.", what="kwargs")
    assert found is gymnasium.spaces.Box


def test_a_missing_package_is_named() -> None:
    """Code that is not installed gives a refusal that says what to install."""
    with pytest.raises(UnsupportedError, match=r"nowhere_at_all\.Thing"):
        read_trusted(b"cnowhere_at_all\nThing\n.", what="kwargs")


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    """A zip without the entries, and a file that is no zip, are told apart from a defect."""
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as content:
        content.writestr("readme", "hello")
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"not a zip")
    for path in (other, broken):
        with pytest.raises(UsageError, match="not an archive of Stable-Baselines3"):
            export_policy(path, tmp_path / "out", trust_pickle=True)
