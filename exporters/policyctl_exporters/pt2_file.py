"""Read a `.pt2` file of `torch.export.save`, after a look that nothing in it runs code while it is read.

`torch.export.load` unpickles what it finds, evaluates the expressions of sizes,
imports modules that a tree of arguments names, loads compiled libraries, and
compiles Python in which the names of the file stand. So each record is looked at
first, by the reader that torch uses itself: weights are plain bytes or pickles of
tensors alone, expressions are arithmetic, trees are tuples, lists and dicts,
operators come from a list, and no name holds what could be code.
"""

from __future__ import annotations

import ast
import io
import json
import logging
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch

from policyctl.errors import UnsupportedError, UsageError, first_line
from policyctl_exporters.pickles import require_trust

_LEGACY: Final = "serialized_exported_program.json"
_RAW: Final = re.compile(r"(\.?data/)?(weights/weight|constants/tensor)_\d+|(\.data/)?(version|serialization_id)")
_PLAIN: Final = frozenset({"archive_format", "archive_version", "byteorder", ".format_version", ".storage_alignment"})
_COMPILED: Final = ("data/aotinductor/", "data/executorch/", "data/mtia")
_OBJECT: Final = re.compile(r"(.*/)?(custom_obj|opaque_obj)_")
_OPERATOR: Final = re.compile(
    r"torch\.ops\.aten\.\w+\.\w+|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pos|eq|ne|lt|le|gt|ge)"
    r"|torch\.ops\.higher_order\.wrap_with_set_grad_enabled|torch\.sym_(max|min|not|ite|int|float|sum)"
    r"|math\.(floor|ceil|trunc)"
)
_EXPRESSION_BYTES: Final = 1000
_MOST_TEXT: Final = 256 << 20
_NAMES: Final = frozenset(
    {"Symbol", "Integer", "Rational", "Add", "Mul", "Max", "Min", "Mod", "Eq", "Ne", "Lt", "Le", "Gt", "Ge"}
    | {"true", "false", "FloorDiv", "ModularIndexing", "PythonMod", "CleanDiv", "CeilDiv", "CeilToInt", "FloorToInt"}
    | {"TruncToInt", "ToFloat", "Identity", "IntTrueDiv", "FloatTrueDiv"}
)
_SYMBOL: Final = re.compile(r"[a-z]{1,4}\d+")
_NAME: Final = re.compile(r"[\w.]*")
_KEY: Final = re.compile(r"[\w. -]*")
_STRING: Final = re.compile(r"[^'\"\\\r\n]*")
_OPERATORS: Final = frozenset({"target", "as_operator"})
_STRINGS: Final = frozenset({"as_string", "as_float"})
_TEXTS: Final = _OPERATORS | _STRINGS | {"expr_str", "in_spec", "out_spec", "guards_code", "torch_version"}
"""What is looked at otherwise, or is never part of a program's text: guards are dropped."""

_TREES: Final = frozenset({None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"})


def load_exported(content: bytes, *, name: str, trust_pickle: bool = False) -> Any:
    """The `torch.export.ExportedProgram` of a file.

    Args:
        trust_pickle: Whether weights may be pickles of any kind.

    Raises:
        UsageError: Not such a file, a damaged one, one of another torch, or pickles that nobody vouched for.
        UnsupportedError: It holds compiled code or objects, or an operator that is not on the list.
    """
    with _refusals(name):
        records = _records(content)
    documents = _examined(records, name, trusted=trust_pickle)
    for document in documents.values():
        _Look(name).at(document)
    version = _version(documents)
    try:
        with warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")
            program = torch.export.load(io.BytesIO(content))
    # torch raises what it likes on a file of another version, and on a damaged one.
    except Exception as error:
        of = f" (saved by {version})" if version else ""
        raise UsageError(
            f"torch {torch.__version__} cannot read {name}{of}: {first_line(error)}",
            remedy="Save the program again by this version of torch: torch.export.save(program, FILE).",
        ) from error
    # Torch would compile the guards as Python; without examples it derives none from the file.
    program._guards_code, program.example_inputs = [], None
    return program


def _records(content: bytes) -> dict[str, bytes]:
    if content[:2] != b"PK":
        raise ValueError("it is not an archive")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        listed = [entry.filename for entry in entries]
        if len({*listed}) != len(listed):
            raise ValueError("two of its records have one name")
        # Torch compresses nothing, and a few MB that unpack to all memory end the process.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("one of its records is compressed")
        _require_within(content, (entry.file_size for entry in entries))
        # Before 2.8 torch wrote a plain archive, and reads it as one.
        if _LEGACY in listed:
            if any(each.endswith("archive_format") for each in listed):
                raise ValueError("it is of two forms at once")
            return {each: archive.read(each) for each in listed}
    reader = torch._C.PyTorchFileReader(io.BytesIO(content))
    names = reader.get_all_records()
    # Two readers of one archive may find two lists in it.
    _require_within(content, map(reader.get_record_size, names))
    return {each: reader.get_record(each) for each in names}


def _require_within(content: bytes, sizes: Iterable[int]) -> None:
    if sum(sizes) > len(content):
        raise ValueError("its records claim more bytes than the file has")


def _examined(records: Mapping[str, bytes], name: str, *, trusted: bool) -> dict[str, Any]:
    """The documents of a file, after a look at its other records."""
    documents = {}
    for record, value in records.items():
        if record.startswith(_COMPILED):
            raise UnsupportedError(
                f"{name} holds compiled code ({record}), which cannot be exported to another form",
                remedy="Save the program itself: torch.export.save(torch.export.export(policy, example), FILE).",
            )
        if _OBJECT.match(record):
            raise UnsupportedError(
                f"{name} holds an object other than tensors ({record})",
                remedy="Keep tensors alone in the policy, and export it again.",
            )
        if record.endswith(".json"):
            documents[record] = _document(value, f"{name}: {record}")
        elif record not in _PLAIN and not _RAW.fullmatch(record) and not record.startswith(("extra/", "extra_files/")):
            _require_tensors(value, name, record, trusted=trusted)
    programs = [r for r in documents if r == _LEGACY or r.startswith("models/")]
    if len(programs) != 1:
        raise UsageError(
            f"{name} holds {len(programs)} programs, expected one of torch.export.save",
            remedy="Save it again: torch.export.save(torch.export.export(policy, example), FILE).",
        )
    for record, document in documents.items():
        if record not in programs:
            for entry in _entries(document):
                if entry.get("use_pickle"):
                    path = str(entry.get("path_name"))
                    for each, value in records.items():
                        if each.endswith(f"/{path}"):
                            _require_tensors(value, name, path, trusted=trusted)
    return documents


def _document(text: bytes, what: str) -> Any:
    try:
        if len(text) > _MOST_TEXT:
            raise ValueError(f"longer than {_MOST_TEXT >> 20} MiB")
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{what} is not JSON: {first_line(error)}", remedy="Save the program again.") from error


def _require_tensors(value: bytes, name: str, record: str, *, trusted: bool) -> None:
    """Refuse a record that is a pickle of more than tensors and plain values."""
    if not value or trusted:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.load(io.BytesIO(value), weights_only=True)
    # Whatever a pickle raises that holds something else, or that is not a pickle.
    except Exception:  # noqa: BLE001
        require_trust(f"{name} ({record})", trusted=False)


def _entries(document: Any) -> Iterator[Mapping[str, Any]]:
    config = document.get("config") if isinstance(document, dict) else None
    return (entry for entry in (config.values() if isinstance(config, dict) else ()) if isinstance(entry, dict))


def _version(documents: Mapping[str, Any]) -> str:
    """Which torch wrote it, and its schema."""
    for document in documents.values():
        if isinstance(document, dict) and isinstance(schema := document.get("schema_version"), dict):
            by = re.sub(r"[^\w.+-]", "", str(document.get("torch_version", "")))[:40]
            return f"torch {by or 'of an unknown version'}, schema {schema.get('major')}.{schema.get('minor')}"
    return ""


class _Look:
    """A walk through a document; it refuses what torch would evaluate, import or call."""

    def __init__(self, name: str) -> None:
        self._name = name

    def at(self, value: Any, key: str = "") -> None:
        """Look at a value that stands under `key`."""
        if isinstance(value, dict):
            for inner, each in value.items():
                self._require_name(inner)
                # Texts about the lines of code that something came from; a tensor of this name has other fields.
                if inner != "metadata" or not _is_text(each):
                    self.at(each, inner if inner != "as_graph" else key)
        elif isinstance(value, list):
            for each in value:
                self.at(each, key)
        elif key == "expr_str" and not _is_arithmetic(value):
            self._refuse(f"the size {str(value)[:60]!r}, which is not arithmetic")
        elif key in ("in_spec", "out_spec") and not _is_tree(value):
            self._refuse("arguments or results in something else than tuples, lists and dicts")
        elif key in _OPERATORS and not (isinstance(value, str) and _OPERATOR.fullmatch(value)):
            shown = str(value)[:80].removeprefix("torch.ops.")
            raise UnsupportedError(
                f"{self._name} uses the operator {shown}, which no format here can hold",
                remedy="Write the policy with torch's own operators (aten), without torch.cond and custom ones.",
            )
        elif key in _STRINGS and isinstance(value, str) and not _STRING.fullmatch(value):
            self._refuse(f"the text {value[:60]!r}, which may end inside a quotation")
        elif isinstance(value, str) and key not in _TEXTS:
            self._require_name(value)

    def _require_name(self, text: str) -> None:
        """Refuse a name that would be more than a name in the Python that torch makes of the graph."""
        if not _NAME.fullmatch(text):
            self._refuse(f"the name {text[:60]!r}, which is more than a name")

    def _refuse(self, what: str) -> None:
        raise UnsupportedError(
            f"{self._name} has {what}", remedy="Export the policy again, with tensors and dicts as arguments."
        )


def _is_arithmetic(text: Any) -> bool:
    """Whether evaluating an expression of a size does nothing but arithmetic."""
    if not isinstance(text, str) or len(text) > _EXPRESSION_BYTES:
        return False
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(map(_is_harmless, ast.walk(tree)))


def _is_harmless(node: ast.AST) -> bool:
    match node:
        case ast.Call():
            return isinstance(node.func, ast.Name) and all(keyword.arg is not None for keyword in node.keywords)
        case ast.Name():
            return node.id in _NAMES or _SYMBOL.fullmatch(node.id) is not None
        case ast.Constant():
            return type(node.value) in (int, float, bool) or (
                isinstance(node.value, str) and _SYMBOL.fullmatch(node.value) is not None
            )
        case ast.BinOp():
            # A power of numbers may be endless.
            return not isinstance(node.op, ast.Pow | ast.LShift | ast.RShift)
    plain = (ast.Expression, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.keyword, ast.operator, ast.unaryop, ast.cmpop)
    return isinstance(node, (*plain, ast.boolop, ast.expr_context))


def _is_tree(text: Any) -> bool:
    """Whether a description of nested arguments names plain containers alone."""
    try:
        _, tree = json.loads(text)
        return _is_plain_tree(tree)
    except (ValueError, TypeError, RecursionError):
        return False


def _is_plain_tree(tree: Mapping[str, Any]) -> bool:
    context = tree["context"]
    keys = json.loads(context) if isinstance(context, str) else context
    plain = keys is None or (isinstance(keys, list) and all(map(_is_key, keys)))
    return plain and tree["type"] in _TREES and all(map(_is_plain_tree, tree["children_spec"]))


def _is_text(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


def _is_key(key: Any) -> bool:
    return type(key) is int or (type(key) is str and _KEY.fullmatch(key) is not None)


@contextmanager
def _quiet() -> Iterator[None]:
    """What torch logs of a file that it cannot read stands in the error."""
    logger = logging.getLogger("torch.export")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


@contextmanager
def _refusals(name: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, RuntimeError, zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
        raise UsageError(
            f"{name} is damaged, or not of torch.export.save: {first_line(error)}",
            remedy="Save the program again: torch.export.save(torch.export.export(policy, example), FILE).",
        ) from error
