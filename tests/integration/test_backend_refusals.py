"""What the backends refuse to load, on the real Triton, while the incumbent keeps serving."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from serving_fixtures import (
    FORMATS,
    KINDS,
    MODEL,
    NATIVE,
    Kind,
    Server,
    answer,
    config,
    contract,
    files_of,
    fill_slot,
    needs_native,
    observations,
    seal,
    serving,
)

from policyctl.domain import manifest
from policyctl.domain.artifacts import CONTRACT_FILE, FILES, MANIFEST_FILE, REQUIRED, Format
from policyctl.domain.contract import Contract

pytestmark = pytest.mark.server

FILES_OF_A_SLOT = (*REQUIRED, MANIFEST_FILE, *(name for fmt in FORMATS for name in FILES[fmt]))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose slot 1 is served; slot 2 is each test's own."""
    root = tmp_path_factory.mktemp("refusals")
    with serving(root / "repository", root / "backends") as running:
        running.serve(MODEL, Format.ONNX, seed=1, slot=1)
        yield running


@pytest.fixture
def candidate(server: Server) -> Iterator[Path]:
    """Slot 2, whole; removed afterwards, with whatever a test made of it."""
    slot = server.repository / MODEL / "2"
    fill_slot(slot, seed=2, release="2.0.0")
    yield slot
    shutil.rmtree(slot)


def digest_of(slot: Path) -> str:
    return manifest.digest_of((slot / MANIFEST_FILE).read_bytes())


def load(server: Server, text: str) -> str:
    (server.repository / MODEL / "config.pbtxt").write_text(text)
    return server.load(MODEL)


def expect_incumbent(server: Server) -> None:
    inputs = observations(2)
    found = server.infer(MODEL, inputs)
    assert found.version == "1"
    assert np.abs(found.outputs["action"] - answer(1, inputs)["action"]).max() < 1e-5


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def remove(file: Path) -> None:
    file.unlink()


def link(file: Path) -> None:
    """The same bytes, but behind a link that could be turned elsewhere later."""
    elsewhere = file.parent.parent / f".elsewhere-{file.name}"
    shutil.move(file, elsewhere)
    file.symlink_to(elsewhere)


@pytest.mark.parametrize("fmt", [Format.ONNX, pytest.param(NATIVE, marks=needs_native)])
@pytest.mark.parametrize("spoil", [flip_a_bit, truncate, remove, link])
@pytest.mark.parametrize("name", FILES_OF_A_SLOT)
def test_a_spoiled_file_is_never_served(
    server: Server, candidate: Path, name: str, spoil: Callable[[Path], None], fmt: Kind
) -> None:
    """Whatever file of a slot is not as published, served or not, the load fails, names it, and changes nothing."""
    digest = digest_of(candidate)
    spoil(candidate / name)
    problem = load(server, config(fmt, version=2, release="2.0.0", digest=digest))
    assert name in problem
    expect_incumbent(server)


@pytest.mark.parametrize("fmt", [Format.ONNX, pytest.param(NATIVE, marks=needs_native)])
def test_an_added_file_is_never_served(server: Server, candidate: Path, fmt: Kind) -> None:
    """A file that publishing did not put there stops the load."""
    digest = digest_of(candidate)
    (candidate / "weights.bin").write_bytes(b"x")
    problem = load(server, config(fmt, version=2, release="2.0.0", digest=digest))
    assert "weights.bin is not in the manifest" in problem
    expect_incumbent(server)


@pytest.mark.parametrize("fmt", [Format.OPENVINO, Format.TORCHSCRIPT, pytest.param(NATIVE, marks=needs_native)])
def test_every_backend_checks_before_it_compiles(server: Server, candidate: Path, fmt: Kind) -> None:
    """The other two backends refuse a flipped bit in their own artifact as ONNX Runtime's does."""
    digest = digest_of(candidate)
    flip_a_bit(candidate / files_of(fmt)[-1])
    model = f"{MODEL}.{fmt}"
    shutil.copytree(candidate, server.repository / model / "2")
    (server.repository / model / "config.pbtxt").write_text(config(fmt, version=2, release="2.0.0", digest=digest))
    assert files_of(fmt)[-1] in server.load(model)


@pytest.mark.parametrize("fmt", [Format.ONNX, pytest.param(NATIVE, marks=needs_native)])
def test_a_manifest_that_was_written_anew_is_refused(server: Server, candidate: Path, fmt: Kind) -> None:
    """Spoiling a file and its manifest together does not help: the configuration pins the manifest."""
    digest = digest_of(candidate)
    flip_a_bit(candidate / "model.onnx")
    seal(candidate, release="2.0.0")
    assert MANIFEST_FILE in load(server, config(fmt, version=2, release="2.0.0", digest=digest))
    expect_incumbent(server)


@pytest.mark.parametrize("fmt", [Format.ONNX, pytest.param(NATIVE, marks=needs_native)])
def test_nothing_is_loaded_without_a_pinned_digest(server: Server, candidate: Path, fmt: Kind) -> None:
    """A configuration that policyctl did not write loads nothing."""
    problem = load(server, config(fmt, version=2, release="2.0.0", digest=""))
    assert "manifest_digest" in problem
    expect_incumbent(server)


@pytest.mark.parametrize("fmt", [Format.ONNX, pytest.param(NATIVE, marks=needs_native)])
@pytest.mark.parametrize(("model", "release"), [(MODEL, "2.0.1"), ("runner", "2.0.0")])
def test_another_release_or_model_than_configured_is_refused(
    server: Server, candidate: Path, model: str, release: str, fmt: Kind
) -> None:
    """A whole slot in the wrong place is still the wrong policy."""
    digest = seal(candidate, release=release, model=model).digest
    problem = load(server, config(fmt, version=2, release="2.0.0", digest=digest))
    assert f"{model} {release}" in problem
    expect_incumbent(server)


def swapped(original: Contract) -> Contract:
    return Contract(original.observations[::-1], original.outputs, original.action_kind)


def test_a_configuration_with_its_inputs_swapped_is_refused(server: Server, candidate: Path) -> None:
    """Where tensors are known by position, a swap would otherwise go unseen."""
    digest = digest_of(candidate)
    text = config(Format.TORCHSCRIPT, version=2, release="2.0.0", digest=digest, of=swapped(contract()))
    assert "config.pbtxt has inputs goal float32[2], observation float32[12]" in load(server, text)
    expect_incumbent(server)


@pytest.mark.parametrize("fmt", [Format.ONNX, pytest.param(NATIVE, marks=needs_native)])
def test_a_contract_shown_to_clients_is_the_release_s_own(server: Server, candidate: Path, fmt: Kind) -> None:
    """Clients check observations by the contract in the configuration, so it may not be another one."""
    shown = {**contract().to_json(), "action_kind": "discrete"}
    text = config(
        fmt,
        version=2,
        release="2.0.0",
        digest=digest_of(candidate),
        parameters={"contract": json.dumps(shown)},
    )
    assert "parameter 'contract'" in load(server, text)
    expect_incumbent(server)


@pytest.mark.parametrize("fmt", KINDS)
def test_an_artifact_of_another_contract_is_refused(server: Server, candidate: Path, fmt: Kind) -> None:
    """An artifact with other tensors than its contract never becomes ready."""
    data = contract().to_json()
    data["observations"].append({**data["observations"][1], "name": "wind"})
    wider = Contract.from_json(data)
    (candidate / CONTRACT_FILE).write_bytes(manifest.canonical_json(wider.to_json()))
    digest = seal(candidate, release="2.0.0").digest
    problem = load(server, config(fmt, version=2, release="2.0.0", digest=digest, of=wider))
    assert "model." in problem
    assert "wind" in problem or "2 inputs" in problem
    expect_incumbent(server)


def test_an_option_that_is_no_number_is_refused(server: Server, candidate: Path) -> None:
    """A thread count with a typing error stops the load instead of being ignored."""
    text = config(
        Format.ONNX,
        version=2,
        release="2.0.0",
        digest=digest_of(candidate),
        parameters={"intra_op_thread_count": "one"},
    )
    assert "intra_op_thread_count" in load(server, text)
    expect_incumbent(server)


@pytest.mark.parametrize("fmt", [Format.ONNX, pytest.param(NATIVE, marks=needs_native)])
def test_a_whole_candidate_is_served_after_all_that(server: Server, candidate: Path, fmt: Kind) -> None:
    """The refusals were about the files: the same slot, unspoiled, is served."""
    assert load(server, config(fmt, version=2, release="2.0.0", digest=digest_of(candidate))) == ""
    inputs = observations(2)
    found = server.infer(MODEL, inputs)
    assert found.version == "2"
    assert np.abs(found.outputs["action"] - answer(2, inputs)["action"]).max() < 1e-5
