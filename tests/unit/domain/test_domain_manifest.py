"""The manifest: one list of files, one text, and nothing that a change can hide in."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from domain_strategies import manifests
from hypothesis import given, settings

from policyctl.domain.manifest import FileEntry, Manifest, canonical_json, check_path, digest_of
from policyctl.errors import IntegrityError

D = "sha256:" + "a" * 64
SMALL = Manifest("m", "1.0.0", (FileEntry("a", 1, D), FileEntry("b/c.bin", 20, digest_of(b"c"))))


@settings(max_examples=100, deadline=None)
@given(manifests())
def test_a_manifest_survives_its_text(manifest: Manifest) -> None:
    """Reading what was written gives the manifest, and the digest is the text's."""
    text = manifest.to_bytes()
    assert Manifest.from_bytes(text) == manifest
    assert manifest.digest == digest_of(text)


def test_no_flipped_bit_of_a_manifest_goes_unseen() -> None:
    """Of every single-bit change, each is refused or read as a manifest with another digest."""
    text = SMALL.to_bytes()
    refused = 0
    for index in range(len(text)):
        for bit in range(8):
            changed = bytearray(text)
            changed[index] ^= 1 << bit
            try:
                found = Manifest.from_bytes(bytes(changed))
            except IntegrityError:
                refused += 1
                continue
            assert found.digest == digest_of(bytes(changed)) != SMALL.digest
            assert found != SMALL
    assert refused > len(text) * 4


def test_no_cut_or_added_byte_of_a_manifest_is_read() -> None:
    """Every truncation and every appended byte is refused."""
    text = SMALL.to_bytes()
    for end in range(len(text)):
        with pytest.raises(IntegrityError):
            Manifest.from_bytes(text[:end])
    for extra in (b" ", b"\n", b"\x00", b"{}", text):
        with pytest.raises(IntegrityError):
            Manifest.from_bytes(text + extra)


def _text(**changes: object) -> bytes:
    return canonical_json({**json.loads(SMALL.to_bytes()), **changes})


FILE = {"path": "a", "size_bytes": 1, "digest": D}
OTHER_TEXTS = {
    "spaces": json.dumps(json.loads(SMALL.to_bytes()), sort_keys=True).encode() + b"\n",
    "key order": json.dumps(dict(reversed(json.loads(SMALL.to_bytes()).items())), separators=(",", ":")).encode()
    + b"\n",
    "no line feed": SMALL.to_bytes().rstrip(),
    "carriage return": SMALL.to_bytes().replace(b"\n", b"\r\n"),
    "byte order mark": b"\xef\xbb\xbf" + SMALL.to_bytes(),
    "utf-16": SMALL.to_bytes().decode().encode("utf-16"),
    "duplicate key": SMALL.to_bytes().replace(b'"schema":1', b'"schema":1,"schema":1'),
    "duplicate key in a file": SMALL.to_bytes().replace(b'"size_bytes":1}', b'"size_bytes":1,"size_bytes":1}'),
    "escaped letter": SMALL.to_bytes().replace(b'"m"', b'"\\u006d"'),
    "schema as a boolean": _text(schema=True),
    "schema as a float": _text(schema=1.0),
    "schema as text": _text(schema="1"),
    "next schema": _text(schema=2),
    "unknown key": _text(comment="hello"),
    "size as a float": _text(files=[{**FILE, "size_bytes": 1.0}]),
    "size as a boolean": _text(files=[{**FILE, "size_bytes": True}]),
    "negative size": _text(files=[{**FILE, "size_bytes": -1}]),
    "size as an exponent": _text(files=[FILE]).replace(b":1}", b":1e0}"),
    "size beyond reason": _text(files=[FILE]).replace(b":1}", b":" + b"9" * 5000 + b"}"),
    "size NaN": _text(files=[FILE]).replace(b":1}", b":NaN}"),
    "upper-case digest": _text(files=[{**FILE, "digest": D.upper()}]),
    "short digest": _text(files=[{**FILE, "digest": D[:-1]}]),
    "digest with a line feed": _text(files=[{**FILE, "digest": D + "\n"}]),
    "digest of another kind": _text(files=[{**FILE, "digest": "sha1:" + "a" * 40}]),
    "digest null": _text(files=[{**FILE, "digest": None}]),
    "path null": _text(files=[{**FILE, "path": None}]),
    "no files": _text(files=[]),
    "files as an object": _text(files={"a": 1}),
    "a file as text": _text(files=["a"]),
    "a file with a mode": _text(files=[{**FILE, "mode": "0755"}]),
    "unsorted": _text(files=list(reversed(json.loads(SMALL.to_bytes())["files"]))),
    "the same path twice": _text(files=[FILE, FILE]),
    "model as a number": _text(model=1),
    "not an object": b"[]\n",
    "not JSON": b"schema: 1\n",
    "empty": b"",
    "too deep": b"[" * 100_000,
    "invalid UTF-8": b'{"\xff":1}\n',
}


@pytest.mark.parametrize("name", OTHER_TEXTS)
def test_only_the_canonical_text_is_read(name: str) -> None:
    """Any other text, also one that says the same, is an integrity error."""
    assert OTHER_TEXTS[name] != SMALL.to_bytes()
    with pytest.raises(IntegrityError, match="manifest"):
        Manifest.from_bytes(OTHER_TEXTS[name])


BAD_PATHS = [
    *("", "/", "/a", "a/", "a//b", ".", "..", "./a", "../a", "a/../b", "a/./b", "a/..", ".hidden", "a/.hidden"),
    *("a\\b", "C:\\a", "C:/a", "a b", "a\tb", "a\n", "\na", "a\x00", "a\x7f", "a\u2215b", "\u2024\u2024/a"),
    *("caf\u00e9", "\uff41", "\u0430", "a\u200b", "-a", "a/-b", "a:b", "a*", "~", "$HOME", "a|b", "%2e%2e"),
    *("\ud800",),
]


@pytest.mark.parametrize("path", BAD_PATHS, ids=ascii)
def test_a_path_that_could_leave_or_hide_is_refused(path: str) -> None:
    """Absolute, dotted, empty, control and look-alike parts are refused, in a listing and in a text."""
    with pytest.raises(IntegrityError, match="path"):
        check_path(path)
    with pytest.raises(IntegrityError):
        Manifest.from_bytes(_text(files=[{**FILE, "path": path}]))


@pytest.mark.parametrize("path", ["a", "A", "_a", "a.b.c", "a-b", "0", "a/b/c", "model.onnx", "a..b"])
def test_a_plain_path_is_allowed(path: str) -> None:
    """What exporters write passes."""
    assert check_path(path) == path


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (("a", "a"), "collides"),
        (("Model.onnx", "model.onnx"), "collides"),
        (("D/x", "d/X"), "collides"),
        (("D/x", "d/y"), "collides"),
        (("a/D/x", "a/d/y/z"), "collides"),
        (("MANIFEST.JSON", "a"), "collides"),
        (("a", "manifest.json"), "collides"),
        (("a", "a/b"), "below a file"),
        (("a", "a/b/c"), "below a file"),
        (("A", "a/b"), "below a file"),
        (("b", "a"), "not sorted"),
        ((), "no file"),
    ],
)
def test_paths_that_cannot_lie_beside_each_other_are_refused(paths: tuple[str, ...], said: str) -> None:
    """Twice, differing in case only, or below a file: no file system holds them all."""
    with pytest.raises(IntegrityError, match=said):
        Manifest("m", "1.0.0", tuple(FileEntry(p, 1, D) for p in paths))


def test_every_difference_is_told() -> None:
    """Missing, added, resized and changed files are each named."""
    a, b = SMALL.files
    assert SMALL.differences(SMALL.files) == ()
    assert SMALL.differences(reversed(SMALL.files)) == ()
    told = SMALL.differences([replace(a, size_bytes=2), FileEntry("new", 1, D)])
    assert [line.split()[0] for line in told] == ["b/c.bin", "new", "a"]
    assert "missing" in told[0]
    assert "not in the manifest" in told[1]
    assert "2 bytes" in told[2]
    assert SMALL.differences([a, replace(b, digest=D)]) == (f"b/c.bin is {D}, the manifest says {b.digest}",)
