"""The pages of the site that are made from code: commands and calls of the control API; and docs/troubleshooting.md.

python website/code_pages.py > docs/troubleshooting.md
"""

from __future__ import annotations

import html
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path

import typer

from policyctl import pages
from policyctl.api.app import page
from policyctl.api.problems import STATUS
from policyctl.cli.help import Rows, everything
from policyctl.cli.main import app
from policyctl.errors import PolicyctlError

ROOT = Path(__file__).resolve().parents[1]


def commands() -> str:
    """Every command with its options and examples, as its help has them."""
    lines = ["# Commands", "", "Each command of `policyctl`, as `policyctl COMMAND --help` explains it."]
    for path, shown in everything(typer.main.get_command(app), "policyctl"):
        lines += ["", f"{'#' * min(2 + path.count(' ') // 2, 3)} {path}", "", "```text", shown.usage, "```"]
        for paragraph in shown.paragraphs:
            lines += ["", html.escape(paragraph, quote=False).replace("*", "\\*")]
        if shown.examples:
            lines += ["", "```sh", *shown.examples, "```"]
        for title, rows in (*shown.panels, ("Arguments", shown.arguments), ("Options", shown.options)):
            lines += _table(title, rows)
        if shown.epilog:
            lines += ["", shown.epilog]
    return "\n".join(lines) + "\n"


def _table(title: str, rows: Rows) -> Iterator[str]:
    if rows:
        yield from ("", f"| {title} | |", "|---|---|")
    for name, text in rows:
        code = html.escape(name, quote=False).replace("|", "&#124;")
        yield f"| <code>{code}</code> | {pages.markdown_safe(text).replace('*', chr(92) + '*')} |"


def http_calls() -> str:
    """Every call and every object of the control API, as the page `/docs` of a running one shows them."""
    document = json.loads((ROOT / "docs" / "openapi.json").read_text())
    (body,) = re.findall(r"<h1>.*?</h1>(.*)</body>", page("api_handbook.html", document), re.DOTALL)
    # Headings of Markdown get into the table of contents and into the search; tables get the style of the site.
    body = re.sub(r"<h2>(.*?)</h2>", r"\n## \1\n", body.replace(' class="words"', ""))
    body = re.sub(r'<h3 id="(\w+)">(.*?)</h3>', r"\n### \2 { #\1 }\n", body)
    return "# Calls of the control API\n\n" + body.replace('"/openapi.json"', '"openapi.json"')


def errors() -> str:
    """Every code of a refusal with what it means and what to do, as the classes of the errors say it."""
    lines = [
        "# Troubleshooting",
        "",
        "A refusal of `policyctl` begins with `Error (code):` and names the problem; behind `Next:` stands what to do."
        " This page is ordered by `code`. Refusals of the [control API](api.md#refusals) and errors of the"
        " [client](client.md#errors) have the same codes. An [alert](alerts.md) has a runbook.",
        "",
        "| exit code | codes |",
        "|---|---|",
    ]
    kinds = sorted(codes(), key=lambda kind: (kind.exit_code, kind.code))
    for exit_code in sorted({kind.exit_code for kind in kinds}):
        named = [f"[{kind.code}](#{kind.code})" for kind in kinds if kind.exit_code == exit_code]
        lines.append(f"| {exit_code} | {', '.join(named)} |")
    for kind in kinds:
        what, *advice = inspect.cleandoc(kind.__doc__ or "").partition("\n\nArgs:")[0].split("\n\n")
        status = f", HTTP {STATUS[kind.code][0]}" if kind.code in STATUS else ""
        lines += ["", f"## {kind.code}", "", f"{_line(what)} Exit code {kind.exit_code}{status}."]
        lines += [text for paragraph in advice for text in ("", _line(paragraph))]
    return "\n".join(lines) + "\n"


def codes() -> list[type[PolicyctlError]]:
    """The class that each code of a refusal comes from: of those that share it, the one that the others are of."""
    import_module("policyctl.client.errors")
    first: dict[str, type[PolicyctlError]] = {}
    for kind in _below(PolicyctlError):
        first.setdefault(kind.code, kind)
    return [*first.values()]


def _below(kind: type[PolicyctlError]) -> Iterable[type[PolicyctlError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _below(each)


def _line(paragraph: str) -> str:
    """A paragraph on one line; pages that it names become links."""
    return re.sub(r"docs/(([\w/-]+)\.md[\w#-]*)", r"[\2](\1)", " ".join(paragraph.split()))


PAGES: dict[str, Callable[[], str]] = {"docs/commands.md": commands, "docs/http-calls.md": http_calls}
"""Pages that the tree lacks: where the nav has each, and what makes it."""


if __name__ == "__main__":
    sys.stdout.write(errors())
