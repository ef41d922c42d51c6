"""What a shell offers after Tab."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from world import World

from policyctl.domain.tokens import Scope
from policyctl.services.rollout.promote import promote
from policyctl.services.trust.signatures import trust_path
from policyctl.services.trust.store import add, keygen
from policyctl.services.trust.tokens import create


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> World:
    """A repository with two models, one of which is served; questions change nothing."""
    with pytest.MonkeyPatch.context() as patch:
        world = World(tmp_path_factory.mktemp("two-models"), patch)
        for number, release in enumerate(("1.0.0", "1.1.0"), 1):
            world.publish(release, number)
        world.publish("0.1.0", 3, model="runner")
        promote(world.control, model="walker", release="1.1.0", alias="production")
        create(world.control, name="ci", scope=Scope.READ)
        keys = keygen(world.folder / "alice.pem", passphrase="")
        add(trust_path(world.control.settings), name="alice", public=keys.public)
    return world


@pytest.fixture
def two_models(begun: World, monkeypatch) -> World:
    """The same, as the repository of every command."""
    monkeypatch.setenv("POLICYCTL_REPOSITORY", str(begun.root))
    return begun


def _asks(line: str) -> dict[str, str]:
    """The variables by which bash asks for the last word of `line`, which may be empty."""
    position = str(len(line.split(" ")) - 1)
    return {"_POLICYCTL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": position}


def offered(line: str, folder: Path, **variables: str) -> list[str]:
    """What bash is offered, by a separate process as in a shell."""
    done = subprocess.run(
        [sys.executable, "-m", "policyctl.cli.main"],
        env={**os.environ, **_asks(line), **variables},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("policyctl promote ", ["runner", "walker"]),
        ("policyctl status w", ["walker"]),
        ("policyctl logs --model r", ["runner"]),
        ("policyctl promote walker ", ["1.0.0", "1.1.0", "latest", "production"]),
        ("policyctl promote walker 1.1", ["1.1.0"]),
        ("policyctl rollback runner --to ", ["0.1.0", "latest"]),
        ("policyctl promote walker 1.1.0 --alias ", ["production"]),
        ("policyctl promote runner 0.1.0 --alias ", []),
        ("policyctl card show walker p", ["production"]),
        ("policyctl promote walker 1.1.0 --format o", ["onnx", "openvino"]),
        ("policyctl promo", ["promote"]),
        ("policyctl results compare walker@1.0", ["walker@1.0.0"]),
        ("policyctl token revoke ", ["ci"]),
        ("policyctl trust revoke a", ["alice"]),
    ],
)
def test_models_releases_and_aliases_are_offered(two_models, run, monkeypatch, line: str, expected: list[str]) -> None:
    """Those that the journal has, narrowed by what stands before."""
    for name, value in _asks(line).items():
        monkeypatch.setenv(name, value)
    done = run()
    assert (done.out.split(), done.err) == (expected, "")


def test_the_repository_that_the_line_names_is_asked(two_models) -> None:
    """Not the one that is configured; and one that is not there offers nothing, without a word."""
    line = f"policyctl promote -r {two_models.root} "
    assert offered(line, two_models.folder, POLICYCTL_REPOSITORY="elsewhere") == ["runner", "walker"]
    assert offered("policyctl promote -r absent ", two_models.folder) == []
