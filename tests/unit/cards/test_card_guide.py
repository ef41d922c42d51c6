"""docs/model-cards.md: its commands are run, from top to bottom, on one repository."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from card_examples import sb3_archive
from card_world import FakeClient, write_card_export

from policyctl.cli.main import main
from policyctl.domain.manifest import digest_of
from policyctl.services.cards import full_card as cards
from policyctl.services.measure import evaluate as measure
from policyctl.services.releases.publish import publish
from policyctl.services.rollout.promote import promote

GUIDE = (Path(__file__).parents[3] / "docs" / "model-cards.md").read_text()


def test_every_command_of_the_guide_does_what_it_says(world, parse, monkeypatch, tmp_path) -> None:
    """Each ends with 0; at the end a release is published whose figures were measured before."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POLICYCTL_REPOSITORY", str(world.root))
    monkeypatch.setattr(measure, "PolicyClient", FakeClient)
    monkeypatch.setattr(FakeClient, "releases", ("1.1.0-rc.1",))
    source = write_card_export(tmp_path / "build" / "walker", 1)
    sb3_archive(tmp_path / "ppo.zip")
    publish(world.control, source, model="walker", release="1.0.0")
    promote(world.control, model="walker", release="1.0.0", alias="production")
    blocks = re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL)
    lines = [line.partition(" #")[0] for block in blocks for line in block.splitlines()]
    assert len(lines) > 12
    for line in lines:
        # The world's policy swings a pendulum, and nothing in it can be measured.
        arguments = shlex.split(line.replace("BipedalWalker-v3 --episodes 100", "Pendulum-v1 --episodes 2"))
        if arguments[1] == "validate":
            parse(arguments[1:])
            continue
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code, line
    assert (tmp_path / "README.md").read_text().startswith("---\n")
    assert (tmp_path / "walker.html").read_text().startswith("<!doctype html>")
    card = cards.full(world.control, model="walker", release="1.1.0")
    assert [(e.environment, e.evidence.kept_in) for e in card.evaluation] == [("Pendulum-v1", "release")]
    assert card.training is not None
    assert card.training.steps == 5000


def test_a_collected_release_still_has_its_card(world, tmp_path) -> None:
    """Its files are gone; what it said and what was seen of it is not. Papers that were edited are refused."""
    from policyctl.adapters.papers import papers
    from policyctl.domain.retention import RetentionPolicy
    from policyctl.errors import IntegrityError
    from policyctl.services.releases.gc import gc

    for number, release in enumerate(("1.0.0", "1.1.0", "1.2.0")):
        publish(world.control, write_card_export(tmp_path / release, number), model="walker", release=release)
        if number:
            promote(world.control, model="walker", release=release, alias="production")
    before = cards.full(world.control, model="walker", release="1.0.0")
    gc(world.control, policy=RetentionPolicy(rollbacks=1, days=0, newest=1), delete=True)
    assert not world.control.repository.slot("walker", 1).exists()
    after = cards.full(world.control, model="walker", release="1.0.0")
    assert after == before
    paper = papers(world.control.repository, "walker", "1.0.0") / "model_card.yaml"
    paper.chmod(0o644)
    paper.write_text("schema_version: 2\n")
    with pytest.raises(IntegrityError, match="model_card"):
        cards.full(world.control, model="walker", release="1.0.0")


def test_who_signed_a_release_stands_in_its_card(tmp_path, monkeypatch) -> None:
    """With what the signature is worth here, and the bundle's digest."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "signing"))
    from signing_people import People, SignedWorld

    (tmp_path / "people").mkdir()
    world = SignedWorld(tmp_path, monkeypatch, People(tmp_path / "people"))
    publish(world.control, write_card_export(tmp_path / "export", 1), model="walker", release="1.0.0")
    world.sign("1.0.0", "alice")
    world.sign("1.0.0", "mallory", name="mallory")
    card = cards.full(world.control, model="walker", release="1.0.0")
    assert card.release is not None
    assert {s.name: (s.standing, s.signer) for s in card.release.signatures} == {
        "alice": ("trusted", "alice"),
        "mallory": ("untrusted", None),
    }
    for signature in card.release.signatures:
        bundle = world.control.repository.control / signature.evidence.file
        assert digest_of(bundle.read_bytes()) == signature.evidence.digest
