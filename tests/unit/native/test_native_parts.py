"""The compiled backend's own reader of releases, held against the one in Python; needs a C++ compiler."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policyctl.errors import IntegrityError
from policyctl.integrity import build_manifest, read_release

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("a.bin", "empty", "sub/b.bin", "sub/deeper/c.bin")
KEPT = ("a.bin", "sub/b.bin")


def build_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_backend", ROOT / "backend_openvino" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def parts() -> Path:
    """The compiled tests, built like the backend."""
    script = build_script()
    try:
        folder: Path = script.build(ROOT / "build" / "backend_openvino", targets=("parts_test",))
    except script.CannotBuildError as error:
        pytest.skip(f"the native backend cannot be built here: {str(error).splitlines()[0]}")
    return folder / "parts_test"


def ask(parts: Path, *arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([str(parts), *arguments], input=given, capture_output=True, timeout=300, check=False)


def test_the_parts_in_cpp_keep_their_promises(parts: Path) -> None:
    """SHA-256 by the standard's examples, JSON by the grammar, and whatever is not finite is found."""
    done = ask(parts)
    assert done.returncode == 0, done.stderr.decode()


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(content=st.binary(max_size=300))
def test_sha256_is_python_s(parts: Path, content: bytes) -> None:
    """The digest of any bytes is that of hashlib."""
    assert (
        ask(parts, "sha256", given=content).stdout.decode().strip() == f"sha256:{hashlib.sha256(content).hexdigest()}"
    )


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(value=VALUES, ascii_only=st.booleans())
def test_json_means_what_it_means_in_python(parts: Path, value: Any, ascii_only: bool) -> None:
    """Any value that Python writes is read in C++, and what C++ writes of it is the same value."""
    done = ask(parts, "json", given=json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == value


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(content=st.text('{}[]",:0123456789.eE+-\\utrfalsn \n', max_size=24))
def test_json_that_python_refuses_is_refused(parts: Path, content: str) -> None:
    """And nothing else is refused, but for a key that comes twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("twice")
        return dict(pairs)

    try:
        json.loads(content, object_pairs_hook=once)
        wanted = 0
    except ValueError:
        wanted = 1
    assert ask(parts, "json", given=content.encode()).returncode == wanted


def a_release(folder: Path) -> str:
    """A release of four files; the digest of its manifest."""
    for number, name in enumerate(NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(range(number * 9)))
    manifest = build_manifest(folder, model="m", release="1.0.0")
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    return manifest.digest


def corrupt(folder: Path, how: str, name: str, at: int, other: str) -> None:
    """One change to the folder; some change nothing."""
    file = folder / name
    if file.is_fifo():
        return  # whoever opens it waits for the other end
    content = file.read_bytes() if file.is_file() else b""
    if how == "flip" and content:
        file.write_bytes(
            bytes([*content[: at % len(content)], content[at % len(content)] ^ 1, *content[at % len(content) + 1 :]])
        )
    elif how == "truncate":
        file.write_bytes(content[: at % (len(content) + 1)])
    elif how == "append":
        file.write_bytes(content + b"x" * (at % 2))
    elif how == "remove":
        file.unlink(missing_ok=True)
    elif how == "link" and file.is_file():
        shutil.move(file, folder.parent / "elsewhere")
        file.symlink_to(folder.parent / "elsewhere")
    elif how == "link folder" and (folder / "sub").is_dir() and not (folder / "sub").is_symlink():
        shutil.move(folder / "sub", folder.parent / "sub")
        (folder / "sub").symlink_to(folder.parent / "sub")
    elif how == "pipe" and file.is_file():
        file.unlink()
        os.mkfifo(file)
    elif how == "add":
        (folder / other).write_bytes(b"")
    elif how == "add folder":
        (folder / other).mkdir(exist_ok=True)
    elif how == "swap" and file.is_file() and (folder / "a.bin").is_file():
        first = (folder / "a.bin").read_bytes()
        (folder / "a.bin").write_bytes(content)
        file.write_bytes(first)
    elif how == "touch" and file.is_file():
        file.touch()
    elif how == "rewrite":
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)


HOWS = ("flip", "truncate", "append", "remove", "link", "link folder", "pipe", "add", "add folder", "swap", "touch")
CHANGES = st.tuples(
    st.sampled_from((*HOWS, "rewrite")),
    st.sampled_from((*NAMES, "manifest.json")),
    st.integers(0, 500),
    st.sampled_from(("new", ".hidden", "sub", "empty", "A.BIN")),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(changes=st.lists(CHANGES, max_size=3), kept=st.sets(st.sampled_from((*KEPT, "none.bin"))))
def test_both_readers_refuse_the_same_folders(parts: Path, changes: list[Any], kept: set[str]) -> None:
    """Whatever is done to a release, C++ refuses it exactly where Python does, and else hands out the same bytes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "slot"
        folder.mkdir()
        digest = a_release(folder)
        for change in changes:
            try:
                corrupt(folder, *change)
            except OSError:
                continue  # what earlier changes left does not allow it
        done = ask(parts, "read", str(folder), digest, *sorted(kept))
        try:
            read = read_release(folder, keep=kept, expected_digest=digest)
        except IntegrityError as refusal:
            assert done.returncode == 1, f"only Python refuses: {refusal}"
            return
        assert done.returncode == 0, f"only C++ refuses: {done.stderr.decode()}"
        wanted = {f"{path} sha256:{hashlib.sha256(content).hexdigest()}" for path, content in read.contents.items()}
        assert set(done.stdout.decode().splitlines()) == wanted
