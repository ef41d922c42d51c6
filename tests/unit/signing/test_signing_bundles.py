"""Bundles of every released schema version, and OpenSSF's own command line."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from policyctl.adapters import trust_store
from policyctl.domain.signature import Bundle, Method, covered_by
from policyctl.domain.trust import TrustStore
from policyctl.integrity import read_release
from policyctl.services.trust import signing
from policyctl.services.trust import store as trust
from policyctl.services.trust.signatures import Standing, judge

DATA = Path(__file__).parent / "data"
BUNDLES = sorted(DATA.glob("*/*.sig"))
_NOW = datetime(2027, 6, 1, tzinfo=UTC)


def openssf(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """OpenSSF's own command line."""
    command = [sys.executable, "-m", "model_signing", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def kept_store(folder: Path, path: Path) -> TrustStore:
    """A trust store with what verifies the kept bundles."""
    trust.add(path, name="alice", public=folder / "alice.pub")
    trust.add(path, name="company", public=folder / "root.pem")
    return trust_store.read(path)


def test_every_schema_version_has_its_bundles() -> None:
    """A change that raises the manifest's schema adds a folder; no folder is ever removed."""
    from policyctl.domain.manifest import SCHEMA_VERSION

    for version in range(1, SCHEMA_VERSION + 1):
        assert {"key.sig", "certificate.sig"} <= {p.name for p in (DATA / f"schema-{version}").glob("*.sig")}


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_a_bundle_that_was_released_verifies_for_ever(bundle: Path, tmp_path) -> None:
    """Made by us, or by a version of OpenSSF's library: by a key, or by a certificate under a trusted root."""
    store = kept_store(bundle.parent, tmp_path / "trust.yaml")
    covered = covered_by(read_release(bundle.parent / "release").manifest)
    judged = judge(bundle.read_bytes(), covered, _NOW, store, where=bundle.name)
    signer = "alice" if bundle.stem.endswith("key") else "company"
    assert (judged.standing, judged.signer) == (Standing.TRUSTED, signer), judged.reason


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_a_kept_bundle_signs_no_other_release(bundle: Path, tmp_path) -> None:
    """One digest that differs, one file more or one less: refused, and the file is named."""
    store = kept_store(bundle.parent, tmp_path / "trust.yaml")
    covered = covered_by(read_release(bundle.parent / "release").manifest)
    for path in covered:
        changed = {**covered, path: "sha256:" + "0" * 64}
        less = {k: v for k, v in covered.items() if k != path}
        for other in (changed, less, {**covered, "more.bin": covered[path]}):
            judged = judge(bundle.read_bytes(), other, _NOW, store, where=bundle.name)
            assert judged.standing is Standing.INVALID
            assert bundle.name in judged.reason
            assert ("more.bin" if "more.bin" in other else path) in judged.reason


def test_our_signature_verifies_with_openssf_s_own_command_line(world) -> None:
    """The slot, the bundle and the public key are all that it is given; a changed file and another key are refused."""
    world.publish("1.0.0", 1)
    world.sign("1.0.0")
    slot, public = world.slot("1.0.0"), world.people.public
    asked = ("verify", "key", slot, "--signature", world.bundle("1.0.0"), "--public_key")
    done = openssf(*asked, public("alice"))
    assert (done.returncode, done.stdout.strip()) == (0, "Verification succeeded"), done.stderr
    assert openssf(*asked, public("bob")).returncode == 1
    (slot / "model.onnx").chmod(0o644)
    (slot / "model.onnx").write_bytes(b"something else")
    refused = openssf(*asked, public("alice"))
    assert refused.returncode == 1
    assert "model.onnx" in refused.stderr


def test_our_certificate_signature_verifies_with_openssf_s_own_command_line() -> None:
    """It needs the root of trust alone: the chain is in the bundle."""
    folder = DATA / "schema-1"
    asked = ("verify", "certificate", folder / "release", "--signature", folder / "certificate.sig")
    done = openssf(*asked, "--certificate_chain", folder / "root.pem")
    assert (done.returncode, done.stdout.strip()) == (0, "Verification succeeded"), done.stderr


def test_a_bundle_that_openssf_s_own_command_line_made_is_kept_and_counts(world, tmp_path) -> None:
    """Somebody who may only read the repository signs the slot, and hands over the bundle."""
    world.publish("1.0.0", 1)
    made = tmp_path / "made.sig"
    done = openssf(
        "sign", "key", world.slot("1.0.0"), "--private_key", world.people.private("alice"), "--signature", made
    )
    assert done.returncode == 0, done.stderr
    kept = signing.attach(world.control, made.read_bytes(), model="walker", release="1.0.0")
    assert (kept.name, kept.judged.standing) == ("alice", "trusted")
    assert world.standing("1.0.0") == "trusted"
    assert world.bundle("1.0.0").read_bytes() == made.read_bytes()


def test_a_file_that_openssf_was_told_to_ignore_is_missed_here(world, tmp_path) -> None:
    """Its own command line would verify it; here a signature covers everything, or does not count."""
    world.publish("1.0.0", 1)
    made, slot = tmp_path / "made.sig", world.slot("1.0.0")
    key = ("--private_key", world.people.private("alice"))
    assert (
        openssf("sign", "key", slot, *key, "--signature", made, "--ignore-paths", slot / "model.onnx").returncode == 0
    )
    bundle = Bundle.from_bytes(made.read_bytes(), where="it")
    assert bundle.method is Method.KEY
    store = trust_store.read(world.trust)
    judged = judge(made.read_bytes(), covered_by(read_release(slot).manifest), _NOW, store, where="made.sig")
    assert (judged.standing, judged.reason) == (Standing.INVALID, "made.sig: it does not cover model.onnx")
