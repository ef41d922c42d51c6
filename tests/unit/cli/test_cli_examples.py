"""Every command that a page or a message shows is one that a user can type.

What an example does is held where its page is tested; here each is at least
read as `policyctl` reads it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from policyctl.cli.main import app

TOP = Path(__file__).parents[3]
PAGES = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "backend_openvino",
    "containers",
    "docs",
    "examples",
    "model_repository",
]
SOURCES = ["control", "exporters"]
ROOT = typer.main.get_command(app)

_BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
_CALL = re.compile(r"(?:^|[\s/(`])(?:[A-Z_]+=\S+ )*policyctl ([^|>&;`)]*)")
_OPTION = re.compile(r"(?<!\S)(-[a-z]|--[a-z][a-z-]+)(?![\w-])")
_OURS = re.compile(r"python (benchmarks|alerts|grafana|examples)/(\S+\.py)(.*)")


def pages() -> list[Path]:
    """Every page of the project, but changelog and decision records: their commands ran at another commit."""
    return sorted(
        page
        for place in PAGES
        for page in ([TOP / place] if place.endswith(".md") else (TOP / place).rglob("*.md"))
        if page.parent.name != "decisions"
    )


def lines_of(page: Path) -> list[str]:
    """The lines of a page's shell blocks, continued ones joined."""
    blocks = (text for language, text in _BLOCK.findall(page.read_text()) if language in {"sh", "console"})
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def calls(text: str) -> Iterator[str]:
    """What follows `policyctl` wherever `text` shows it as a command."""
    return (call.partition(" # ")[0].strip() for call in _CALL.findall(text))


def unknown(call: str) -> list[str]:
    """The commands and options of `call` that do not exist; a text may name them without their values."""
    command: Any = ROOT
    options = {option for param in command.params for option in param.opts}
    words = re.split(r"\s+", call)
    while words and (hasattr(command, "commands")):
        word = words.pop(0)
        if word.startswith("-"):
            words = words[1:] if word in {"--api", "--store", "--profile", "--config"} else words
        elif re.fullmatch(r"[a-z][a-z-]+", word):
            if word not in command.commands:
                return [word]
            command = command.commands[word]
            options |= {option for param in command.params for option in (*param.opts, *param.secondary_opts)}
        else:
            break
    return [option for option in _OPTION.findall(call) if option not in {*options, "--help", "-h"}]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(TOP)))
def test_every_command_of_a_page_can_be_typed(parse, page: Path) -> None:
    """Those in blocks are whole lines; those within a sentence may lack their arguments."""
    for line in lines_of(page):
        for call in calls(re.split(r"\s# ?", line)[0]):
            parse(shlex.split(call.replace("$f", "onnx"), comments=True))
    sentences = _BLOCK.sub("", page.read_text())
    named = re.findall(r"`[^`\n]*`", sentences)
    assert [(call, unknown(call)) for text in named for call in calls(text[1:-1]) if unknown(call)] == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(TOP)))
def test_every_program_of_a_page_is_there_and_knows_its_options(page: Path) -> None:
    """Benchmarks and the like, which take too long to run here."""
    for folder, name, rest in _OURS.findall(page.read_text()):
        source = (TOP / folder / name).read_text()
        for option in _OPTION.findall(rest.partition("`")[0]):
            assert f'"{option}"' in source, f"{folder}/{name} {option}"


def test_every_command_of_a_message_exists() -> None:
    """What an error advises after a colon, with its options."""
    advice = re.compile(r": (policyctl [^\"\n]*?)(?:[.,;] |\.?\"|$)", re.MULTILINE)
    seen, wrong = 0, []
    for path in (path for place in SOURCES for path in (TOP / place).rglob("*.py")):
        for text in advice.findall(path.read_text()):
            seen += 1
            wrong += [(path.name, call, unknown(call)) for call in calls(text) if unknown(call)]
    assert seen > 50
    assert wrong == []
