"""MaskablePPO: a mask rules out the choices that it rules out for `predict(action_masks=...)`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import exporter_models as models
import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO

from policyctl.client import sampling
from policyctl.domain.artifacts import Format
from policyctl.domain.contract import Contract
from policyctl.domain.golden import Golden
from policyctl.domain.tensor import Role
from policyctl_exporters import export_policy
from policyctl_exporters.runtimes import open_runner

ALL = (Format.ONNX, Format.OPENVINO, Format.TORCHSCRIPT)
ROWS = 40
CLASHING = spaces.Dict({"action_mask": spaces.MultiBinary(4), "seen": spaces.Box(-1.0, 1.0, (3,))})

# What, observations, actions, policy.
CASES: list[tuple[str, Any, Any, str]] = [
    ("discrete", models.VECTOR, spaces.Discrete(4), "MlpPolicy"),
    ("multi-discrete", models.VECTOR, spaces.MultiDiscrete([3, 2, 4]), "MlpPolicy"),
    ("multi-binary", models.VECTOR, spaces.MultiBinary(3), "MlpPolicy"),
    ("image", models.IMAGE, spaces.Discrete(3), "CnnPolicy"),
    ("a-name-that-clashes", CLASHING, spaces.Discrete(4), "MultiInputPolicy"),
]


def _cases() -> Iterator[Any]:
    for name, *case in CASES:
        yield pytest.param(*case, ALL if case[0] is models.VECTOR else ALL[:1], id=name)


def masks_for(contract: Contract) -> NDArray[np.bool_]:
    """Drawn masks; the last ones rule out everything, and nothing."""
    (spec,) = contract.with_role(Role.ACTION_MASK)
    masks = np.random.default_rng(2).random((ROWS, *spec.shape)) < 0.6
    masks[-2:] = [[False], [True]]
    return masks


@pytest.mark.parametrize(("observations", "actions", "policy", "formats"), list(_cases()))
def test_a_mask_rules_out_what_it_rules_out_for_predict(
    observations: Any, actions: Any, policy: str, formats: tuple[Format, ...], tmp_path: Path
) -> None:
    """Also a mask that allows nothing, which gives the first choice of each component."""
    model = models.tiny(MaskablePPO, observations, actions, policy=policy)
    contract = export_policy(model, tmp_path / "out", formats=formats).contract
    (spec,) = contract.with_role(Role.ACTION_MASK)
    assert spec.dtype == "bool"
    masks = masks_for(contract)
    observations.seed(1)
    samples = [observations.sample() for _ in range(ROWS)]
    keys = list(observations.spaces) if isinstance(observations, spaces.Dict) else None
    seen = np.stack(samples) if keys is None else {key: np.stack([each[key] for each in samples]) for key in keys}
    expected, _ = model.predict(seen, deterministic=True, action_masks=masks)
    parts = [seen] if keys is None else list(seen.values())
    given = dict(zip([each.name for each in contract.observations if each is not spec], parts, strict=True))
    for form in formats:
        found = open_runner(form, tmp_path / "out", contract)(given | {spec.name: masks})
        np.testing.assert_array_equal(found["action"].reshape(expected.shape), expected)


@pytest.mark.parametrize("actions", [spaces.Discrete(4), spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(3)], ids=str)
def test_what_a_client_draws_follows_the_masked_distribution(actions: Any, tmp_path: Path) -> None:
    """The exported scores have the policy's own probabilities, and a choice that is ruled out is never drawn."""
    model = models.tiny(MaskablePPO, models.VECTOR, actions)
    contract = export_policy(model, tmp_path / "out", formats=["onnx"]).contract
    masks = masks_for(contract)
    rows = np.random.default_rng(3).normal(size=(ROWS, 5)).astype(np.float32)
    found = open_runner(Format.ONNX, tmp_path / "out", contract)({"observation": rows, "action_mask": masks})
    with torch.no_grad():
        law = model.policy.get_distribution(torch.from_numpy(rows), action_masks=masks)
    each = getattr(law, "distributions", None) or [law.distribution]
    sizes = [inner.logits.shape[1] for inner in each]
    for inner, logits in zip(each, np.split(found["logits"], np.cumsum(sizes)[:-1], axis=1), strict=True):
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        np.testing.assert_allclose(powers / powers.sum(axis=1, keepdims=True), inner.probs, atol=1e-6)
    offsets = np.cumsum([0, *sizes[:-1]])
    possible = np.stack([part.any(axis=1) for part in np.split(masks, offsets[1:], axis=1)], axis=1)
    for seed in range(20):
        drawn = sampling.draw(contract, found, np.random.default_rng(seed)).reshape(ROWS, -1)
        allowed = np.take_along_axis(masks, drawn + offsets, axis=1)
        assert (allowed | ~possible).all()


def test_golden_masks_allow_some_choice_and_rule_some_out(tmp_path: Path) -> None:
    """So a server that ignores masks is not certified."""
    model = models.tiny(MaskablePPO, models.VECTOR, spaces.Discrete(4))
    contract = export_policy(model, tmp_path / "out", formats=["onnx"]).contract
    golden = Golden.from_bytes((tmp_path / "out" / "golden.npz").read_bytes(), contract)
    masks = golden.observations["action_mask"]
    assert masks.any(axis=1).all() and not masks.all()
    assert "action_mask: bool[4] (which choices are allowed)" in (tmp_path / "out" / "model_card.yaml").read_text()


def test_an_archive_of_maskable_ppo_is_read(tmp_path: Path) -> None:
    """Its last observation proves that nothing was normalised, and its card names the algorithm."""
    env = models.SpacesOnly(models.VECTOR, spaces.Discrete(4))
    env.action_masks = lambda: np.array([True, False, True, True])  # type: ignore[attr-defined]
    model = MaskablePPO("MlpPolicy", env, device="cpu", seed=0, n_steps=16, batch_size=8)
    model.learn(16)
    model.save(tmp_path / "agent.zip")
    export_policy(tmp_path / "agent.zip", tmp_path / "out", formats=["onnx"], trust_pickle=True)
    assert "algorithm: MaskablePPO" in (tmp_path / "out" / "model_card.yaml").read_text()
