"""Archives whose policy or extractor is a class of the user's own, and archives that spell weights as they once did."""

from __future__ import annotations

import base64
import contextlib
import json
import runpy
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import exporter_models as models
import numpy as np
import pytest
from sb3_contrib import ARS

from policyctl.errors import UnsupportedError, UsageError
from policyctl_exporters import load_reference
from policyctl_exporters.sb3_archive import build_policy

NET = '''
import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

class Doubled(BaseFeaturesExtractor):
    """Twice the observation, so that leaving it out would show."""

    def __init__(self, observation_space, features_dim=5):
        super().__init__(observation_space, features_dim)

    def forward(self, observations):
        return 2.0 * torch.flatten(observations, 1)
'''
TRAIN = """
import sys
import numpy as np
sys.path.insert(0, {models!r})
import exporter_models as models
from gymnasium import spaces
from stable_baselines3 import PPO

if __name__ == "__main__":
    kwargs = {{"net_arch": [8], "features_extractor_class": Doubled}}
    model = models.tiny(PPO, models.VECTOR, spaces.Discrete(3), policy_kwargs=kwargs)
    model.save("model.zip")
    rows = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    np.save("expected.npy", model.predict(rows, deterministic=True)[0])
"""


def _train(folder: Path, *, own_module: bool) -> None:
    """Save an archive whose extractor is defined in a module of its folder, or in the script itself."""
    folder.mkdir()
    script = TRAIN.format(models=str(Path(models.__file__).parent))
    if own_module:
        (folder / "my_own_net.py").write_text(NET)
        script = "from my_own_net import Doubled\n" + script
    else:
        script = NET + script
    (folder / "train.py").write_text(script)
    # As `python train.py` runs it, in this process, which has imported torch.
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        runpy.run_path("train.py", run_name="__main__")
    sys.modules.pop("my_own_net", None)


def _acts_alike(folder: Path, **options: Any) -> None:
    answer = load_reference(folder / "model.zip", normalizer=False, trust_pickle=True, **options)
    rows = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    assert answer({"observation": rows})["action"][:, 0].tolist() == np.load(folder / "expected.npy").tolist()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive next to the module of its extractor."""
    folder = tmp_path_factory.mktemp("own-module") / "run"
    _train(folder, own_module=True)
    return folder


@pytest.fixture
def no_own_net() -> Any:
    """The test's modules are forgotten again."""
    yield
    for name in ("my_own_net", "train"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("no_own_net")
def test_a_class_in_a_module_beside_the_archive_is_found_where_it_is_named(trained: Path) -> None:
    """Without a word the refusal names the class and the option; the folder or the file makes it known."""
    with pytest.raises(UnsupportedError, match=r"my_own_net\.Doubled, which cannot be imported") as refusal:
        _acts_alike(trained)
    assert "--code train.py" in refusal.value.remedy
    before = list(sys.path)
    _acts_alike(trained, code=trained)
    assert sys.path == before
    sys.modules.pop("my_own_net")
    _acts_alike(trained, code=str(trained / "my_own_net.py"))


@pytest.mark.usefixtures("no_own_net")
def test_a_class_of_the_training_script_is_found_in_it(tmp_path: Path) -> None:
    """`__main__.Doubled` means the class in the named script, which is imported and not run as a script."""
    _train(tmp_path / "run", own_module=False)
    # Stable-Baselines3 pickles such a class by value; what pickles by name is read too.
    _acts_alike(tmp_path / "run")
    _by_name(tmp_path / "run" / "model.zip")
    with pytest.raises(UnsupportedError, match=r"__main__\.Doubled, which cannot be imported"):
        _acts_alike(tmp_path / "run")
    _acts_alike(tmp_path / "run", code=tmp_path / "run" / "train.py")


def _by_name(archive: Path) -> None:
    """Replace the extractor's class in an archive by its name in the script."""
    pickled = b"\x80\x04}(\x8c\x08net_arch]K\x08a\x8c\x18features_extractor_classc__main__\nDoubled\nu."
    _replace(archive, "policy_kwargs", pickled)


def test_an_archive_of_sbx_is_refused_with_the_way_that_serves_it(tmp_path: Path) -> None:
    """Its policies are JAX: no package that could be installed would help."""
    _train(tmp_path / "run", own_module=False)
    _replace(tmp_path / "run" / "model.zip", "policy_class", b"\x80\x04csbx.ppo.policies\nPPOPolicy\n.")
    with pytest.raises(UnsupportedError, match=r"of SBX \(sbx\.ppo\.policies\.PPOPolicy\)") as refusal:
        _acts_alike(tmp_path / "run")
    assert "--answers" in refusal.value.remedy


def _replace(archive: Path, key: str, pickled: bytes) -> None:
    """Put another pickle into the data of an archive."""
    with zipfile.ZipFile(archive) as given:
        members = {name: given.read(name) for name in given.namelist()}
    data = json.loads(members["data"])
    data[key] = {":type:": "dict", ":serialized:": base64.b64encode(pickled).decode()}
    members["data"] = json.dumps(data).encode()
    with zipfile.ZipFile(archive, "w") as changed:
        for name, content in members.items():
            changed.writestr(name, content)


def test_code_that_is_no_python_file_is_refused(archive: Path, tmp_path: Path) -> None:
    """A missing path, or another kind of file, is named."""
    for wrong in (tmp_path / "nowhere.py", archive):
        with pytest.raises(UsageError, match="is neither a Python file nor a folder"):
            load_reference(archive, normalizer=False, trust_pickle=True, code=wrong)


@pytest.mark.usefixtures("no_own_net")
def test_the_command_line_takes_the_code_too(trained: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    """`--code` on export; without it the exit code says that something is missing here."""
    command = ("export", trained / "model.zip", "-o", tmp_path / "out", "--trust-pickle", "--no-normalizer")
    refused = run(*command, "-f", "onnx")
    assert (refused.code, "--code" in refused.err) == (8, True)
    assert run(*command, "-f", "onnx", "--code", trained).code == 0


def test_a_linear_ars_policy_of_before_1_7_is_read() -> None:
    """Its layer was `action_net`, and is a sequence of one now."""
    model = models.tiny(ARS, models.VECTOR, models.CONTINUOUS, policy="LinearPolicy", zero_policy=False)
    state = {key.replace("action_net.0.", "action_net."): value for key, value in model.policy.state_dict().items()}
    assert list(state) == ["action_net.weight"]
    again = build_policy(type(model.policy), models.VECTOR, models.CONTINUOUS, {}, use_sde=False, state=state)
    rows = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    np.testing.assert_array_equal(again.predict(rows)[0], model.predict(rows)[0])
