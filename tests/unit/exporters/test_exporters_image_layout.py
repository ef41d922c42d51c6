"""Images are served as the environment gives them, with channels first or last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import exporter_models as models
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecTransposeImage

from policyctl.domain.images import laid_out
from policyctl.errors import UsageError
from policyctl_exporters import export_policy, load_reference
from policyctl_exporters.runtimes import open_runner

LAST = spaces.Box(0, 255, (36, 40, 4), np.uint8)
FIRST = spaces.Box(0, 255, (4, 36, 40), np.uint8)
MIXED = spaces.Dict({"camera": LAST, "joints": spaces.Box(-1.0, 1.0, (3,))})
SMALL: dict[str, Any] = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "device": "cpu", "seed": 0}
ACTIONS = spaces.Discrete(5)


def _env(space: Any) -> Any:
    return models.SpacesOnly(space, ACTIONS)


def _saved(model: Any, tmp_path: Path) -> Path:
    model.learn(16)
    model.save(tmp_path / "model.zip")
    return tmp_path / "model.zip"


def _acts_as_predict(result: Any, model: Any, space: Any) -> None:
    space.seed(3)
    samples = [space.sample() for _ in range(6)]
    expected = [int(model.predict(sample, deterministic=True)[0]) for sample in samples]
    keys = list(getattr(space, "spaces", {"observation": None}))
    batch = {key: np.stack([s[key] if isinstance(s, dict) else s for s in samples]) for key in keys}
    for form in result.formats:
        found = open_runner(form, result.output, result.contract)(batch)["action"]
        assert found[:, 0].tolist() == expected


def _shapes(result: Any) -> dict[str, tuple[int, ...]]:
    return {spec.name: spec.shape for spec in result.contract.observations}


@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_an_archive_takes_images_with_channels_last_and_says_so(algorithm: Any, tmp_path: Path) -> None:
    """That is what environments give; every format turns them and acts as `predict()` on them."""
    settings = SMALL if algorithm is PPO else {"device": "cpu", "seed": 0, "buffer_size": 20, "learning_starts": 8}
    model = algorithm("CnnPolicy", _env(LAST), **settings)
    source = _saved(model, tmp_path)
    result = export_policy(source, tmp_path / "out", trust_pickle=True)
    assert _shapes(result) == {"observation": (36, 40, 4)}
    assert result.notes == (
        "images are taken with channels last, (36, 40, 4), as environments give them, and turned in the graph;"
        " where yours gives (4, 36, 40), say so: --images channels-first (images='channels-first')",
    )
    _acts_as_predict(result, model, LAST)


def test_an_archive_takes_images_with_channels_first_where_that_is_said(tmp_path: Path) -> None:
    """By the option, or by the environment that is named."""
    model = PPO("CnnPolicy", _env(FIRST), **SMALL)
    source = _saved(model, tmp_path)
    for index, said in enumerate(({"images": "channels-first"}, {"observation_space": FIRST})):
        result = export_policy(source, tmp_path / str(index), trust_pickle=True, formats=["onnx"], **said)
        assert (_shapes(result), result.notes) == ({"observation": (4, 36, 40)}, ())
        _acts_as_predict(result, model, FIRST)
    last = export_policy(source, tmp_path / "last", trust_pickle=True, formats=["onnx"], observation_space=LAST)
    assert _shapes(last) == {"observation": (36, 40, 4)}
    _acts_as_predict(last, model, LAST)


def test_a_live_algorithm_takes_what_its_environment_gives(tmp_path: Path) -> None:
    """No option is needed; stacked frames are part of what it gives, of either layout."""
    single = spaces.Box(0, 255, (36, 40, 1), np.uint8)
    stacked = VecFrameStack(DummyVecEnv([lambda: _env(single)]), 4)
    turned = VecFrameStack(VecTransposeImage(DummyVecEnv([lambda: _env(single)])), 4)
    for name, env, space in (("a", _env(LAST), LAST), ("b", _env(FIRST), FIRST), ("c", stacked, LAST)):
        model = PPO("CnnPolicy", env, **SMALL)
        result = export_policy(model, tmp_path / name, formats=["onnx"])
        assert _shapes(result) == {"observation": space.shape}
        assert len(result.notes) == (space is LAST)
        _acts_as_predict(result, model, space)
    inside = export_policy(PPO("CnnPolicy", turned, **SMALL), tmp_path / "d", formats=["onnx"])
    assert _shapes(inside) == {"observation": FIRST.shape}


def test_images_of_a_dict_are_turned_by_key(tmp_path: Path) -> None:
    """Other keys stay as they are, live and out of an archive."""
    model = PPO("MultiInputPolicy", _env(MIXED), **SMALL)
    source = _saved(model, tmp_path)
    for name, given in (("live", model), ("archive", source)):
        result = export_policy(given, tmp_path / name, trust_pickle=True, formats=["onnx"])
        assert _shapes(result) == {"camera": (36, 40, 4), "joints": (3,)}
        assert result.notes[0].startswith("images of camera are taken with channels last")
        _acts_as_predict(result, model, MIXED)


def test_what_is_no_image_is_never_turned(tmp_path: Path) -> None:
    """`predict()` turns images alone, so a layout is refused for anything else, and for a typing error."""
    cube = spaces.Box(-1.0, 1.0, (3, 4, 5))
    model = PPO("MlpPolicy", _env(cube), **SMALL)
    assert _shapes(export_policy(model, tmp_path / "out", formats=["onnx"])) == {"observation": (3, 4, 5)}
    with pytest.raises(UsageError, match="observes no image with channels first"):
        load_reference(model, images="channels-last")
    with pytest.raises(UsageError, match="expected channels-first or channels-last"):
        load_reference(model, images="hwc")


def test_the_policy_in_python_refuses_images_of_the_other_layout() -> None:
    """As many numbers in another order would be taken for another image."""
    answer = load_reference(PPO("CnnPolicy", _env(LAST), **SMALL))
    with pytest.raises(UsageError, match=r"observation has shape \(2, 4, 36, 40\), expected \(n, 36, 40, 4\)"):
        answer({"observation": np.zeros((2, *FIRST.shape), np.uint8)})


def test_a_batch_is_turned_only_where_that_fits() -> None:
    """Images of the other layout are turned, and nothing else is touched."""
    batch = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    np.testing.assert_array_equal(laid_out(batch, (5, 3, 4)), batch.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(laid_out(batch, (4, 5, 3)), batch.transpose(0, 2, 3, 1))
    for shape in ((3, 4, 5), (5, 4, 3), (60,), ()):
        assert laid_out(batch, shape) is batch
