"""Every example of a help page runs on a prepared repository, where it needs no real server and no long measurement."""

from __future__ import annotations

import shlex

import pytest
from test_cli_help import EVERY, examples
from world import WIDER, World, write_export

from policyctl.services.moves import drain
from policyctl.services.rollout.promote import promote
from policyctl.services.trust.store import keygen as generate

ELSEWHERE = {
    "export": "torch or a policy's file: the tests of the exporters run them",
    "serve": "runs until it is stopped",
    "demo": "a real server: make demo runs it, and the tests of the demo remove what it left",
    "bench": "perf_analyzer and a real server",
    "evaluate": "a real server",
    "record": "a real server",
    "replay": "a recording",
    "memory": "a real server's processes",
    "tune": "perf_analyzer and a real server",
    "calibrate": "perf_analyzer and a real server",
    "results": "results that bench kept: test_cli_bench.py has them",
    "sign walker 1.0.0 --key bob.pem --certificate": "a certificate: the tests of signatures make one",
    "sign walker 1.0.0 --bundle": "a bundle: the tests of signatures make one",
    "trust add company-ca.pem": "a certificate: the tests of signatures make one",
    'trust revoke alice --reason "left': "a key that no other example revoked",
    "card cite": "figures that were measured",
    "card init build/walker --from": "an archive of Stable-Baselines3",
    "card": "a model card: test_card_guide.py runs them",
    "hardware": "runtimes, which take seconds to import",
    "config diff": "files of several profiles: test_cli_config_guide.py runs them",
    "--store": "the store of a fleet: tests/unit/fleet moves aliases there",
    "--profile": "the file of a profile: test_cli_config_guide.py runs them",
    "validate cartpole": "an environment",
    "validate walker 1.1.0 --gates non_inferiority": "perf_analyzer",
    "validate walker 1.1.0 --recording": "a recording",
    "promote walker 1.1.0 --gates": "perf_analyzer",
    "promote walker 1.1.0 --bake": "five minutes",
    "console": "a control API: test_cli_console.py has one",
    "--api https://policies.example.com console": "a control API elsewhere",
    "top": "Triton's statistics: test_cli_top.py has them",
    "logs --model walker --follow": "runs until it is stopped",
}
"""How examples begin that do not run here, and what they need."""
ENDLESS = {"api", "api --port 9004 --anonymous none"}
EXIT_CODES = {"doctor": {0, 8}, "abort walker": {2}}
"""Where an example may end otherwise than with 0: on some machines, and where no move is under way."""
ORDER = ("trust keygen", "sign ", "trust add", "signatures", "trust rotate", "trust", "publish")
"""What other examples build on comes first."""


def lines() -> list[str]:
    """Each example once, without `policyctl`."""
    found = dict.fromkeys(
        example.removeprefix("policyctl ")
        for command in EVERY.values()
        if not hasattr(command, "commands")
        for example in examples(command.help or "")
    )
    place = {line: next((n for n, start in enumerate(ORDER) if line.startswith(start)), len(ORDER)) for line in found}
    return sorted(found, key=lambda line: place[line])


@pytest.fixture
def prepared(world: World, monkeypatch, tmp_path) -> None:
    """The repository and the files that the examples name."""
    for number, release in enumerate(("0.9.2", "1.0.0-rc.1", "1.0.0", "1.1.0", "1.2.0", "1.4.0")):
        world.publish(release, number)
    world.publish("2.0.0", 9, contract=WIDER)
    for release, alias in (("1.0.0", "production"), ("0.9.2", "production"), ("1.2.0", "staging")):
        promote(world.control, model="walker", release=release, alias=alias)
    promote(world.control, model="walker", release="1.1.0", alias="production")
    write_export(tmp_path / "build" / "walker", 2)
    generate(tmp_path / "alice-2027.pem", passphrase="")
    monkeypatch.setattr(drain, "REST_S", 0.0)
    world.unsupervised()
    monkeypatch.setenv("POLICYCTL_REPOSITORY", str(world.root))
    monkeypatch.setenv("POLICYCTL_INTEGRITY__PASSPHRASE", "correct horse")
    monkeypatch.setenv("POLICYCTL_GATES__VALIDATE_WITH", "[]")


def test_every_example_runs(prepared, run) -> None:
    """One after another, on one repository, each with the exit code that it should have."""
    wrong = []
    for line in lines():
        command = line.partition(" > ")[0]
        if command in ENDLESS or command.startswith(tuple(ELSEWHERE)) or "registry.example.com" in command:
            continue
        done = run(*shlex.split(command))
        if done.code not in EXIT_CODES.get(command, {0}):
            wrong.append(f"policyctl {line}: {done.code}: {done.err[-500:]}")
    assert not wrong, "\n".join(wrong)


def test_what_does_not_run_here_is_still_an_example() -> None:
    """No reason is kept for an example that went."""
    left = [start for start in (*ELSEWHERE, *ENDLESS) if not any(line.startswith(start) for line in lines())]
    assert left == []
