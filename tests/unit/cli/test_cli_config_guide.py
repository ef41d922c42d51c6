"""docs/configuration.md: its files are files, and its commands are run, from top to bottom."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from policyctl.config.files import parse_file
from policyctl.config.rules import RULES
from policyctl.settings import Settings

GUIDE = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text()


def test_every_file_and_command_of_the_guide_works(run) -> None:
    """Each file under the name that its first line gives it."""
    Path("registry_password").write_text("s3cret")
    commands = 0
    for kind, block in re.findall(r"```(yaml|sh)\n(.*?)```", GUIDE, re.DOTALL):
        if kind == "yaml":
            name = block.splitlines()[0].removeprefix("# ")
            assert parse_file(Settings, Path(name), block.encode()).problems == ()
            Path(name).write_text(block)
            continue
        for line in block.splitlines():
            done = run(*shlex.split(line)[1:])
            assert done.code == 0, f"{line}\n{done.out}\n{done.err}"
            commands += 1
    assert commands >= 10
    shown = run("--profile", "lab", "config", "show", "registry", "--json").document["settings"]
    assert shown["registry.password"] == {"value": "********", "from": "policyctl.lab.yaml:5"}


def test_the_guide_states_every_rule() -> None:
    """By the name of each setting that a profile asks about."""
    table = GUIDE[GUIDE.index("| asked |") : GUIDE.index("`development` and other names")]
    for asked in RULES.values():
        for rule in asked:
            assert rule.path[0] == "*" or ".".join(map(str, rule.path)) in table
