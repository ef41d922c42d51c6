"""What an archive says about its training, read as text."""

from __future__ import annotations

from pathlib import Path

import pytest
from card_examples import sb3_archive
from world import write_export

from policyctl.card.reading import parse
from policyctl.domain.manifest import digest_of
from policyctl.errors import UsageError
from policyctl.services.cards.draft import draft
from policyctl_exporters.archive_file import of_archive, of_data, open_archive


def test_an_archive_tells_what_it_knows_and_nothing_of_its_machine(tmp_path: Path) -> None:
    """Algorithm, steps, seed, environments, plain settings and versions; the pickles are not touched."""
    with open_archive(sb3_archive(tmp_path / "ppo.zip")) as archive:
        found = of_archive(archive)
    assert found == {
        "algorithm": "PPO",
        "framework": {"name": "stable-baselines3", "version": "2.4.0[31m"},
        "steps": 5000,
        "environments": 8,
        "seed": 7,
        "hyperparameters": {"ent_coef": "auto", "gamma": 0.99},
        "libraries": {"python": "3.9.13", "torch": "2.1.0+cu118"},
    }


@pytest.mark.parametrize("data", [[], "x", 3, None])
def test_what_is_no_archive_is_refused(tmp_path: Path, data: object) -> None:
    """Another zip, or another file, is named."""
    folder = write_export(tmp_path / "export", 1)
    with pytest.raises(UsageError, match=r"ppo\.zip is not an archive"):
        draft(folder, archive=sb3_archive(tmp_path / "ppo.zip", data), force=True)
    (tmp_path / "ppo.zip").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"ppo\.zip is not an archive"):
        draft(folder, archive=tmp_path / "ppo.zip", force=True)


def test_nothing_told_is_nothing_stated() -> None:
    """Of an algorithm that was never trained only the framework is known."""
    assert of_data({"num_timesteps": 0, "seed": None}) == {"framework": {"name": "stable-baselines3"}}


def test_an_archive_fills_what_a_card_does_not_state(tmp_path: Path) -> None:
    """What people wrote stays; another archive than the one that was exported is refused."""
    folder, archive = write_export(tmp_path / "export", 1), sb3_archive(tmp_path / "ppo.zip")
    (folder / "model_card.yaml").write_text("schema_version: 2\ntraining: {seed: 3}\n")
    data = parse(draft(folder, archive=archive, force=True).encode()).data
    assert (data["training"]["seed"], data["training"]["steps"]) == (3, 5000)
    assert data["provenance"]["source"] == {
        "kind": "sb3",
        "file": "ppo.zip",
        "digest": digest_of(archive.read_bytes()),
    }
    (folder / "model_card.yaml").write_text(
        f"schema_version: 2\nprovenance: {{source: {{kind: sb3, digest: 'sha256:{'0' * 64}'}}}}\n"
    )
    with pytest.raises(UsageError, match="the card says that sha256:000"):
        draft(folder, archive=archive, force=True)
