"""The wheel is all that somebody needs who has no checkout."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import zipfile
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from installed import ANY_PORTS, ROOT, WAIT_S, Installed

import release_files
from policyctl import __version__

_COMPILED = {str(path.relative_to(ROOT / "control")) for path in (ROOT / "control/policyctl/serving").rglob("*.so")}


def test_the_wheel_holds_the_package_and_nothing_of_others(wheel: Path) -> None:
    """Every file that the packages have in git, what was compiled, and no library of Triton or OpenVINO."""
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "control", "exporters"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    expected = {name.partition("/")[2] for name in tracked}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    manual = f"policyctl-{__version__}.data/data/share/man/man1/policyctl.1"
    assert manual in names
    packed = {name for name in names if ".dist-info/" not in name} - {manual}
    guides = {name for name in packed if name.startswith("policyctl/guides/")}
    assert packed == expected | _COMPILED | guides
    for page in (
        "docs/export.md",
        "docs/runbooks/server.md",
        "alerts/rules/latency.yml",
        "grafana/dashboards/model.json",
        "examples/cpp/policyctl_lane.hpp",
    ):
        assert f"policyctl/guides/{page}" in guides


def test_the_name_of_the_wheel_says_where_it_runs(wheel: Path) -> None:
    """Compiled, on systems with the C library that its symbols need and no older one; else anywhere."""
    tag = wheel.stem.rpartition("-")[2]
    assert tag.startswith("manylinux_2_") if _COMPILED else tag == "any"


def test_every_command_of_a_core_install_shows_its_help(core: Installed) -> None:
    """In an empty folder, without importing a training framework."""
    assert core.policyctl("--version") == f"policyctl {__version__}\n"
    assert "policyctl rollback walker" in core.policyctl("--help")
    code = (
        "import sys\n"
        "from policyctl.cli.commands import MODULES, parser_of\n"
        "for name in MODULES: assert parser_of(name).help, name\n"
        "heavy = {'torch', 'onnx', 'openvino', 'fastapi', 'gymnasium', 'docker', 'cuda', 'aiohttp'}\n"
        "assert not heavy & sys.modules.keys()\n"
        "print(len(MODULES))\n"
    )
    done = core.run("python", "-c", code)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30
    assert list(core.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("doctor", "serve"),
        ("serve", "serve"),
        ("demo", "serve,sb3"),
        ("serve --engine docker", "docker"),
        ("api", "api"),
        ("export ppo.zip -o build --trust-pickle", "sb3"),
        ("export walker.onnx -o build", "export"),
        ("trust keygen alice.pem", "sign"),
    ],
)
def test_a_command_that_needs_an_extra_names_it(core: Installed, tmp_path: Path, command: str, extra: str) -> None:
    """One sentence, one extra, exit code 8, and no traceback."""
    for name in ("ppo.zip", "walker.onnx"):
        (tmp_path / name).write_bytes(b"weights")
    done = Installed(core.prefix, tmp_path).run("policyctl", *command.split())
    assert done.returncode == 8, done.stderr
    advice = done.stderr.splitlines()[-1]
    assert advice.startswith("Next: ")
    assert f"pip install 'policyctl[{extra}]'" in advice
    assert advice.count("pip install") == 1
    assert "Traceback" not in done.stderr


def test_the_guides_of_an_install_are_those_of_the_checkout(core: Installed, tmp_path: Path) -> None:
    """Printed page by page, or written with what Prometheus and Grafana read."""
    here = Installed(core.prefix, tmp_path)
    assert here.policyctl("docs", "export") == (ROOT / "docs" / "export.md").read_text().rstrip() + "\n"
    assert json.loads(here.policyctl("docs", "--json"))["pages"]["gates"] == "Gates"
    here.policyctl("docs", "--write", "guides")
    rules = tmp_path / "guides" / "alerts" / "rules" / "latency.yml"
    assert rules.read_bytes() == (ROOT / "alerts" / "rules" / "latency.yml").read_bytes()


def test_the_manual_page_comes_with_an_install(core: Installed) -> None:
    """Where `man` looks for that of an environment."""
    page = core.prefix / "share" / "man" / "man1" / "policyctl.1"
    assert '.SS "policyctl promote"' in page.read_text()


def test_a_release_has_materials_notes_and_digests(wheel: Path, tmp_path: Path) -> None:
    """The bill of materials follows CycloneDX; it says what an install needs, and what an extra would add."""
    shutil.copy(wheel, tmp_path)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("<p>The guides.</p>")
    released = [*release_files.write(tmp_path, site=tmp_path / "site", tag=None)]
    assert all(file.is_file() for file in released)
    text = (tmp_path / f"policyctl-{__version__}.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    scopes = {each["name"]: each["scope"] for each in document["components"]}
    assert (scopes["numpy"], scopes["openvino"], scopes["torch"]) == ("required", "optional", "optional")
    assert not {"pytest", "zensical", "policyctl"} & scopes.keys()
    assert document["metadata"]["component"]["hashes"][0]["content"] in (tmp_path / "SHA256SUMS").read_text()
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path, check=True)


def test_a_release_without_its_wheel_or_site_is_refused(tmp_path: Path) -> None:
    """With what makes them."""
    with pytest.raises(release_files.WrongReleaseError, match=r"0 wheels of .*: make wheel"):
        [*release_files.write(tmp_path, site=tmp_path, tag=None)]
    (tmp_path / f"policyctl-{__version__}-py3-none-any.whl").touch()
    with pytest.raises(release_files.WrongReleaseError, match="has no page: make site"):
        [*release_files.write(tmp_path, site=tmp_path, tag=None)]


def test_a_core_install_publishes_and_verifies(core: Installed, export: Path, tmp_path: Path) -> None:
    """A release that was exported elsewhere, without torch and without a server."""
    here = Installed(core.prefix, tmp_path)
    here.policyctl("publish", export, "--model", "cartpole", "--release", "1.1.0")
    assert json.loads(here.policyctl("verify", "--json"))["intact"]
    assert "cartpole" in here.policyctl("status")
    assert "1.1.0 as slot 1" in here.policyctl("history", "cartpole")
    refused = here.run("policyctl", "promote", "cartpole", "1.1.0")
    assert refused.returncode == 6
    assert "policyctl serve" in refused.stderr


def test_an_installed_server_answers_the_client_of_a_core_install(
    serving: Installed, core: Installed, export: Path, wheel: Path
) -> None:
    """With the compiled backend and the guard, where the wheel has them."""
    serving.policyctl("publish", export, "--model", "cartpole", "--release", "1.1.0")
    with serving.running("serve", "--quiet", *ANY_PORTS) as server:
        at = serving.announced(server)
        serving.policyctl("promote", "cartpole", "1.1.0", "--reason", "first")
        assert at["openvino"].startswith("Python-based" if wheel.name.endswith("-any.whl") else "native")
        assert bool(at["triton_guard"]) is not wheel.name.endswith("-any.whl")
        code = (
            "import numpy as np\n"
            "from policyctl.client import PolicyClient\n"
            f"with PolicyClient('cartpole', url={at['grpc']!r}, deadline_s=60) as client:\n"
            "    action = client.act(np.zeros(4, dtype=np.float32))\n"
            "print(action.release, int(action.value) in (0, 1))\n"
        )
        answered = core.run("python", "-c", code)
        assert answered.stdout == "1.1.0 True\n", answered.stderr
        server.send_signal(signal.SIGTERM)
        assert server.wait(WAIT_S) == 0
