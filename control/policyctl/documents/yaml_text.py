"""Read YAML that people write: what it says, where each field stands, and what it may not hold.

Values are read by YAML 1.2's core schema, so ``no`` and ``off`` are texts, ``1e-4``
a number and a date a text, whatever older readers make of them. What readers
differ in (a field twice, an anchor, a tag, a character that cannot be printed)
is a complaint with its line, not an exception, so that everything is reported at once.
"""

from __future__ import annotations

import io
import math
import re
import unicodedata
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.representer import SafeRepresenter
from ruamel.yaml.resolver import implicit_resolvers

from policyctl.documents.document import Document, Path, Problem, decoded, path_words
from policyctl.errors import UsageError

_MOST_NODES: Final = 50_000
_DEPTH: Final = 32


def parse(content: bytes, *, what: str) -> Document:
    """Read a document.

    Raises:
        UsageError: It is not a mapping in YAML, or larger than people write.
    """
    text = decoded(content, what)
    try:
        node = _reader().compose(text)
    except (YAMLError, RecursionError, ValueError) as error:
        cause = " ".join(str(error).split())
        raise UsageError(f"{what} is not YAML ({cause})", remedy="Correct it at that place.") from error
    if node is None:
        return Document({})
    if not isinstance(node, MappingNode):
        raise UsageError(f"{what} is not a mapping of names to values", remedy="Write `name: value` lines.")
    reading = _Reading(what)
    data = reading.value(node, ())
    if "&" in text or "!" in text:
        reading.refuse_references(text)
    return Document(data, reading.lines, tuple(sorted(reading.complaints)))


def _reader() -> YAML:
    return YAML(typ="safe", pure=True)


class _Reading:
    """One pass over the nodes of a document."""

    def __init__(self, what: str) -> None:
        self._what = what
        self.lines: dict[Path, int] = {}
        self.complaints: list[Problem] = []
        self._nodes = 0

    def value(self, node: Node, path: Path) -> Any:
        self._nodes += 1
        if self._nodes > _MOST_NODES or len(path) > _DEPTH:
            raise UsageError(
                f"{self._what} is nested more than {_DEPTH} deep or has more than {_MOST_NODES} values",
                remedy="It is for people: keep data in separate files, and name them.",
            )
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self._complain(key_node, path, "a list or a mapping as a name", "a text as a name")
                continue
            key = str(key_node.value)
            here = (*path, key)
            if not isinstance(_resolved(key_node), str):
                self._complain(
                    key_node, here, key, "a name in quotation marks, for without them it is a number or a truth value"
                )
            if key in mapping:
                self._complain(key_node, here, "it stands here twice", "each field once")
            self._check_text(key_node, here, key)
            self.lines[here] = key_node.start_mark.line + 1
            mapping[key] = self.value(value_node, here)
        return mapping

    def _scalar(self, node: Node, path: Path) -> Any:
        value = _resolved(node)
        if isinstance(value, str):
            self._check_text(node, path, value)
        elif isinstance(value, float) and not math.isfinite(value):
            self._complain(node, path, str(node.value), "a finite number")
        return value

    def _check_text(self, node: Node, path: Path, text: str) -> None:
        if bad := [c for c in text if unicodedata.category(c) in {"Cc", "Cs"} and c not in "\n\t"]:
            self._complain(node, path, f"the character {bad[0]!r}", "printable text")

    def refuse_references(self, text: str) -> None:
        """Anchors, aliases and tags: readers differ in what they make of them."""
        for event in _reader().parse(text):
            line = event.start_mark.line + 1 if event.start_mark is not None else 0
            for kind, name in (("anchor or alias", "anchor"), ("tag", "tag")):
                if (found := getattr(event, name, None)) is not None:
                    self.complaints.append(Problem(line, self._what, f"the {kind} {found!r}", "plain values"))

    def _complain(self, node: Node, path: Path, found: str, expected: str) -> None:
        self.complaints.append(Problem(node.start_mark.line + 1, path_words(path), found, expected))


_NULL: Final = re.compile(r"~|null|Null|NULL|")
_BOOL: Final = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT: Final = re.compile(r"[-+]?[0-9]{1,300}|0o[0-7]{1,300}|0x[0-9a-fA-F]{1,300}")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE: Final = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def _resolved(node: Node) -> Any:
    """A scalar's value by the core schema of YAML 1.2; what stands in quotation marks is a text."""
    text = str(node.value)
    if getattr(node, "style", None) is not None:
        return text
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INFINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def dump(data: Any) -> str:
    """YAML that `parse`, and any other reader of YAML, reads back as `data`."""
    writer = YAML(typ="safe", pure=True)
    writer.Representer = _Representer
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    writer.width = 100
    stream = io.StringIO()
    writer.dump(data, stream)
    return stream.getvalue()


class _Representer(SafeRepresenter):
    """Writes what older and newer readers of YAML understand alike."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, value: str) -> ScalarNode:
        """In quotation marks wherever one reader or another takes a plain text for something else."""
        style = "'" if _is_ambiguous(value) else None
        if not value.isprintable():
            style = "|" if _is_block(value) else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    def number(self, value: float) -> ScalarNode:
        """With a point before any exponent: without one, YAML 1.1 reads a text."""
        text = repr(value)
        if "e" in text and "." not in text:
            text = text.replace("e", ".0e")
        if not math.isfinite(value):
            text = {"inf": ".inf", "-inf": "-.inf"}.get(text, ".nan")
        return self.represent_scalar("tag:yaml.org,2002:float", text)


_Representer.add_representer(str, _Representer.text)
_Representer.add_representer(float, _Representer.number)


def _is_ambiguous(value: str) -> bool:
    """Whether some version of YAML takes it, without quotation marks, for no text."""
    own = not isinstance(_resolved(ScalarNode("", value)), str)
    return own or any(pattern.match(value) for _, _, pattern, _ in implicit_resolvers)


def _is_block(value: str) -> bool:
    lines = value.split("\n")
    return len(lines) > 1 and all(line.isprintable() and line == line.strip() for line in lines) and bool(lines[0])
