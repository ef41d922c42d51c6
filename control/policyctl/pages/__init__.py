"""Reports for people: one HTML page that needs nothing else, and tables in Markdown.

A page is a template of the folder `templates` with values put in. Every value
is escaped, unless it is `Markup`, as a plot is. A page loads nothing, runs
nothing, and its policy forbids browsers to try.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_TEMPLATES: Final = Path(__file__).parent / "templates"
_CODE: Final = re.compile(r"``?([^`]+)``?")

Rows = Iterable[Sequence[str]]


def render(template: str, **values: Any) -> str:
    """One HTML page.

    Args:
        template: A file of the folder `templates`, for example ``bench.html``.
        values: What the template names.
    """
    return _environment().get_template(template).render(style=raw(style()), **values)


def raw(text: str) -> Markup:
    """`text`, which is HTML already and is not escaped."""
    from markupsafe import Markup

    return Markup(text)  # noqa: S704 - the caller made this HTML


@cache
def text(name: str) -> str:
    """A file of the folder `templates`, as it is."""
    return (_TEMPLATES / name).read_text()


def style() -> str:
    """The style sheet of every report and page of the API; the control API allows it by its hash."""
    return text("page.css")


def markdown_table(columns: Sequence[str], rows: Rows) -> str:
    """A table as Markdown."""
    return "\n".join([_markdown_row(columns), "|" + "---|" * len(columns), *map(_markdown_row, rows)])


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(markdown_safe(cell) for cell in cells) + " |"


def markdown_safe(text: str) -> str:
    """`text` as text in one cell of Markdown: no table, no line and no HTML begins in it."""
    return html.escape(text, quote=False).replace("|", "\\|").replace("\r", " ").replace("\n", " ")


@cache
def _environment() -> Environment:
    # Imported here: a command that shows no page starts without it.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["prose"] = _prose
    return environment


def _prose(text: str) -> Markup:
    """A docstring as HTML; what stands between backquotes is code."""
    return raw(_CODE.sub(r"<code>\1</code>", html.escape(" ".join(text.split()))))
