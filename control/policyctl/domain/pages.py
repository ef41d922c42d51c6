"""Reports for people: one HTML page that needs nothing else, and Markdown.

A page loads nothing and runs nothing, and its policy forbids browsers to try;
every word that comes from outside is escaped. What is passed as `body` is HTML
already: parts that this module made, or plots.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Final

_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums}"
    "th,td{border:1px solid #ccc;padding:.25rem .6rem;text-align:right}"
    "th:first-child,td:first-child,.words td{text-align:left}svg{max-width:100%;height:auto}"
    ".bad{background:#fde0dd}.ok{color:#185c2b}code{overflow-wrap:anywhere}"
    ".note{background:#fff6dd;padding:.5rem 1rem;border-left:4px solid #e0a800}"
)

Rows = Iterable[Sequence[str]]


def page(title: str, body: Iterable[str]) -> str:
    """One HTML page.

    Args:
        title: In words.
        body: Parts that are HTML already.
    """
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{safe(title)}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{safe(title)}</h1>{''.join(body)}</body></html>\n"
    )


def table(columns: Sequence[str], rows: Rows, *, kind: str = "", bad: frozenset[int] = frozenset()) -> str:
    """A table as HTML.

    Args:
        columns: Its head.
        rows: Its cells, in words.
        kind: ``words`` aligns it for reading.
        bad: Which rows stand out, from 0.
    """
    head = "".join(f"<th>{safe(column)}</th>" for column in columns)
    body = "".join(
        ('<tr class="bad">' if index in bad else "<tr>") + "".join(f"<td>{safe(cell)}</td>" for cell in row) + "</tr>"
        for index, row in enumerate(rows)
    )
    return f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def markdown_table(columns: Sequence[str], rows: Rows) -> str:
    """A table as Markdown."""
    return "\n".join([_markdown_row(columns), "|" + "---|" * len(columns), *map(_markdown_row, rows)])


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(markdown_safe(cell) for cell in cells) + " |"


def markdown_safe(text: str) -> str:
    """`text` as text in one cell of Markdown: no table, no line and no HTML begins in it."""
    return html.escape(text, quote=False).replace("|", "\\|").replace("\r", " ").replace("\n", " ")


def safe(text: str) -> str:
    """`text` as text in HTML."""
    return html.escape(text)
