"""docs/signatures.md: its examples run, one after the other, as they stand there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from world import write_export

from policyctl.cli.main import main

PAGE = Path(__file__).parents[3] / "docs" / "signatures.md"


def lines(page: str) -> list[str]:
    """The lines of every block of shell but installing."""
    blocks = page.split("```sh\n")[1:]
    found = [line for block in blocks for line in block.partition("```")[0].splitlines()]
    return [line for line in found if not line.startswith("pip ")]


@pytest.fixture
def shell(monkeypatch, capsys, tmp_path):
    """Run one line as a shell would: comments, `export` and `>` are all that the page uses."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("POLICYCTL_INTEGRITY__PASSPHRASE", "for the test")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS")  # rows stay whole

    def call(line: str) -> str:
        words, target = shlex.split(line, comments=True), None
        if words[0] == "export":
            monkeypatch.setenv(*words[1].split("=", 1))
            return ""
        if ">" in words:
            words, target = words[: words.index(">")], words[words.index(">") + 1]
        if words[0] == "model_signing":
            done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=False)
            code, out, err = done.returncode, done.stdout, done.stderr
        else:
            assert words[0] == "policyctl"
            monkeypatch.setattr(sys, "argv", words)
            capsys.readouterr()
            with pytest.raises(SystemExit) as stop:
                main()
            code, (out, err) = stop.value.code or 0, capsys.readouterr()
        assert code == 0, f"{line}\n{err}"
        if target is not None:
            Path(target).write_text(out)
        return out

    return call


def test_the_examples_of_the_page_run_in_order(shell) -> None:
    """Every command succeeds; at the end the revoked key counts no more, and the others do."""
    write_export(Path("build/walker"), 1)
    said = [shell(line) for line in lines(PAGE.read_text())]
    assert sum("Verification succeeded" in text for text in said) == 1
    rows = [re.split(r" {2,}", row) for row in said[-1].splitlines()]
    counts = {row[0]: row[1] for row in rows if row[0] in {"alice", "bob", "carol"}}
    assert counts == {"alice": "yes", "bob": "NO, untrusted", "carol": "yes"}
