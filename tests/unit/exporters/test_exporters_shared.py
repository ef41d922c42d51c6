"""Six real agents, trained years ago by others, exported and put back to work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from policyctl.domain.artifacts import CARD_FILE, CONTRACT_FILE, FILES, GOLDEN_FILE, PARITY_FILE, Format
from policyctl.domain.contract import Contract, DistributionKind, Transform
from policyctl.domain.golden import Golden
from policyctl.domain.parity import compare
from policyctl.errors import UsageError
from policyctl_exporters import export_policy, load_reference
from policyctl_exporters.runtimes import open_runner

CPU_FORMATS = (Format.ONNX, Format.OPENVINO, Format.TORCHSCRIPT)
GAUSSIAN, NONE, CATEGORICAL = DistributionKind.GAUSSIAN, DistributionKind.NONE, DistributionKind.CATEGORICAL

# Agent, environment, distribution, transform, episodes, and a mean return that no wrong policy reaches.
AGENTS = [
    ("ppo-CartPole-v1", "CartPole-v1", CATEGORICAL, Transform.NONE, 1, 499.0),
    ("ppo-BipedalWalker-v3", "BipedalWalker-v3", GAUSSIAN, Transform.CLIP, 2, 80.0),
    ("a2c-Pendulum-v1", "Pendulum-v1", GAUSSIAN, Transform.CLIP, 4, -300.0),
    ("sac-Pendulum-v1", "Pendulum-v1", GAUSSIAN, Transform.TANH_RESCALE, 4, -300.0),
    ("dqn-MountainCar-v0", "MountainCar-v0", NONE, Transform.NONE, 3, -125.0),
    ("ppo-LunarLander-v2", "LunarLander-v3", CATEGORICAL, Transform.NONE, 2, 150.0),
]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("agent", "environment", "kind", "transform", "episodes", "at_least"), AGENTS, ids=[a[0] for a in AGENTS]
)
def test_a_real_agent_is_exported_whole_and_still_solves_its_task(
    agent: str,
    environment: str,
    kind: DistributionKind,
    transform: Transform,
    episodes: int,
    at_least: float,
    shared_policies: Path,
    tmp_path: Path,
) -> None:
    """Every file is there, every format gives the golden answers, and the ONNX file earns the return."""
    folder, output = shared_policies / agent, tmp_path / "out"
    statistics = folder / "vecnormalize.pkl"
    result = export_policy(
        folder / "model.zip",
        output,
        normalizer=statistics if statistics.exists() else False,
        trust_pickle=True,
    )
    own = (f"{statistics.name} gives the last observation that training kept: it belongs to this policy",)
    assert result.notes == (own if statistics.exists() else ())
    files = {name for form in CPU_FORMATS for name in FILES[form]}
    files |= {CONTRACT_FILE, GOLDEN_FILE, PARITY_FILE, CARD_FILE}
    assert {path.name for path in output.iterdir()} == files
    contract = Contract.from_json(json.loads((output / CONTRACT_FILE).read_bytes()))
    assert contract == result.contract
    assert (contract.distribution.kind, contract.distribution.transform) == (kind, transform)
    golden = Golden.from_bytes((output / GOLDEN_FILE).read_bytes(), contract)
    assert golden.rows == 64
    for form in CPU_FORMATS:
        found = open_runner(form, output, contract)(golden.observations)
        comparison = compare(contract, golden.outputs, found, golden.tolerance)
        assert comparison.agrees
        assert comparison.near_ties == 0
    runner = open_runner(Format.ONNX, output, contract)
    returns = [_episode(runner, contract, environment, seed) for seed in range(episodes)]
    assert np.mean(returns) > at_least


def _episode(runner: Any, contract: Contract, environment: str, seed: int) -> float:
    env = gymnasium.make(environment)
    observation, _ = env.reset(seed=seed)
    total, ended = 0.0, False
    while not ended:
        action = runner({"observation": observation[None].astype(np.float32)})["action"][0]
        taken = action if contract.action_kind == "continuous" else int(action[0])
        observation, reward, terminated, truncated, _ = env.step(taken)
        total, ended = total + float(reward), terminated or truncated
    return total


@pytest.mark.shared
def test_no_exported_file_names_a_folder_of_this_machine(shared_policies: Path, tmp_path: Path) -> None:
    """Neither the source's folder, nor the output's, nor that of the code is in any file."""
    output = tmp_path / "out"
    export_policy(shared_policies / "ppo-CartPole-v1" / "model.zip", output, trust_pickle=True)
    folders = (str(shared_policies), str(tmp_path), "site-packages", str(Path(__file__).parents[3]))
    for path in output.iterdir():
        for folder in folders:
            assert folder.encode() not in path.read_bytes(), path.name


@pytest.mark.shared
@pytest.mark.parametrize(
    ("agent", "said"),
    [
        ("ppo-CartPole-v1", ""),
        ("ppo-LunarLander-v2", ""),
        ("ppo-BipedalWalker-v3", "trained behind a VecNormalize"),
        ("a2c-Pendulum-v1", "trained behind a VecNormalize"),
        ("sac-Pendulum-v1", "nothing says whether"),
        ("dqn-MountainCar-v0", "nothing says whether"),
    ],
)
def test_what_an_old_archive_proves_of_its_observations(agent: str, said: str, shared_policies: Path) -> None:
    """Without a word about a normaliser an archive is taken where it proves that it had none, and only there."""
    source = shared_policies / agent / "model.zip"
    if not said:
        load_reference(source, trust_pickle=True)
        return
    with pytest.raises(UsageError, match=said):
        load_reference(source, trust_pickle=True)


@pytest.mark.shared
def test_a_policy_trained_behind_a_normaliser_is_not_exported_without_it(shared_policies: Path, tmp_path: Path) -> None:
    """The archive proves that observations were normalised, so forgetting or denying the statistics is refused."""
    source = shared_policies / "a2c-Pendulum-v1" / "model.zip"
    with pytest.raises(UsageError, match="VecNormalize"):
        export_policy(source, tmp_path / "out", trust_pickle=True)
    with pytest.raises(UsageError, match="is a normalised one"):
        export_policy(source, tmp_path / "out", trust_pickle=True, normalizer=False)
    export_policy(source, tmp_path / "out", trust_pickle=True, normalizer=False, despite_archive=True, formats=["onnx"])
