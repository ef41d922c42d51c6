"""A release of policyctl: the workflow that drafts it, its notes, and the manual page."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

import manual_page
import release_files
from policyctl import __version__
from policyctl.cli.commands import MODULES

TOP = Path(__file__).parents[3]
WORKFLOWS = sorted((TOP / ".github" / "workflows").glob("*.yml"))
CI = (TOP / ".ci" / "run").read_text()
MAKEFILE = (TOP / "Makefile").read_text()


def _tool(name: str) -> str:
    places = (Path(sys.executable).parent, sysconfig.get_path("scripts"), Path(pytest.__file__).parents[4] / "bin")
    found = shutil.which(name, path=":".join(map(str, places))) or shutil.which(name)
    assert found, f"{name} is missing: pip install {name}"
    return found


def _accepts(*command: str) -> None:
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schema_of_workflows_knows_every_key() -> None:
    """As check-jsonschema carries it."""
    _accepts(_tool("check-jsonschema"), "--builtin-schema", "vendor.github-workflows", *map(str, WORKFLOWS))


def test_nothing_in_a_workflow_can_be_taken_over() -> None:
    """Actions are pinned, rights are least, no text of others gets into a shell: zizmor, without the network."""
    _accepts(_tool("zizmor"), "--offline", "--no-config", "--quiet", *map(str, WORKFLOWS))


def test_yaml_at_the_top_is_as_the_rest() -> None:
    """By the rules of the containers' files."""
    _accepts(_tool("yamllint"), "--strict", "-c", "containers/yamllint.yml", "mkdocs.yml", *map(str, WORKFLOWS))


def test_each_step_of_a_release_is_one_that_runs_here_too() -> None:
    """The project's CI, a target of make, or one of two commands that need GitHub's machines."""
    (workflow,) = WORKFLOWS
    jobs: dict[str, Any] = YAML(typ="safe").load(workflow.read_text())["jobs"]
    steps = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    theirs = [step for step in steps if step.startswith(("apt-get ", "gh release create "))]
    assert len(theirs) == 2
    assert [step for step in steps if step not in theirs] == ["bash .ci/run", "make release"]
    assert "\nmake package\n" in CI, "its tests make what a release has"
    recipe = re.search(r"^release: wheel site .*\n\t@\$\(BIN\)/python (\S+)", MAKEFILE, re.MULTILINE)
    assert recipe
    assert recipe[1] == "release/release_files.py"


CHANGES = f"# Changelog\n\n## {__version__} (2026-12-01)\n\n- A thing.\n\n- Another.\n\n## 0.0.1\n\n- Old.\n"


def test_the_notes_of_a_release_are_its_section_of_the_changelog() -> None:
    """Without the sections of others."""
    assert release_files.notes(CHANGES, tag=f"v{__version__}") == "- A thing.\n\n- Another.\n"
    assert "- A fleet:" in release_files.notes((TOP / "CHANGELOG.md").read_text(), tag=None)


@pytest.mark.parametrize(
    ("changes", "tag", "said"),
    [
        (CHANGES, "v9.0.0", f"the tag is v9.0.0, expected v{__version__}"),
        (CHANGES.replace(__version__, "9.9.9"), f"v{__version__}", f"has no section {__version__}"),
        (CHANGES.replace("2026-12-01", "unreleased"), f"v{__version__}", "unreleased: write the date"),
    ],
)
def test_a_release_that_is_not_what_its_tag_says_is_refused(changes: str, tag: str, said: str) -> None:
    """Of another version, without changes, or with changes that have no date."""
    with pytest.raises(release_files.WrongReleaseError, match=re.escape(said)):
        release_files.notes(changes, tag=tag)


def test_the_manual_page_has_every_command_and_groff_reads_it(tmp_path: Path) -> None:
    """Without a warning; options stand in it as they are typed."""
    page = tmp_path / "policyctl.1"
    page.write_text(manual_page.page())
    command = ("groff", "-man", "-ww", "-Tascii", "-P-c", "-rLL=200n", str(page))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    text = re.sub(r".\x08", "", done.stdout)
    assert [name for name in MODULES if f"policyctl {name}" not in text] == []
    assert "policyctl promote walker 1.1.0 --bake 300" in text
    assert "--drain" in text
