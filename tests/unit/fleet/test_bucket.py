"""Releases in a bucket arrive byte for byte or not at all, and a number keeps its release."""

from __future__ import annotations

from pathlib import Path

import pytest
from world import World

from policyctl.adapters import bucket as bucket_module
from policyctl.adapters.bucket import Bucket
from policyctl.adapters.bucket_releases import BucketReleases
from policyctl.domain.oci import read_artifact
from policyctl.errors import IntegrityError, UnsupportedError, UsageError
from policyctl.services.releases.transfer import export_release, import_release
from policyctl.settings import load


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"file://{tmp_path}/store"


@pytest.fixture
def sites(tmp_path, monkeypatch) -> tuple[World, World]:
    """One that publishes, and another."""
    here, there = World(tmp_path / "here", monkeypatch), World(tmp_path / "there", monkeypatch)
    here.publish("1.0.0", 1)
    return here, there


def test_a_release_goes_through_a_bucket(sites: tuple[World, World], store: str) -> None:
    """By its number or by its digest; what is there is not sent again."""
    here, there = sites
    sent = export_release(here.control, model="walker", release="1.0.0", destination=store)
    assert export_release(here.control, model="walker", release="1.0.0", destination=store).sent == 0
    done = import_release(there.control, f"{store}@walker:1.0.0", digest=sent.digest)
    assert (done.done, done.manifest_digest) == ("published", sent.manifest_digest)
    assert import_release(there.control, f"{store}@{sent.digest}").done == "here already"


def test_a_number_in_a_bucket_keeps_its_release(sites: tuple[World, World], store: str) -> None:
    """Two sites published other bytes under one number."""
    here, there = sites
    there.publish("1.0.0", 2)
    export_release(here.control, model="walker", release="1.0.0", destination=store)
    with pytest.raises(UsageError, match="with other files"):
        export_release(there.control, model="walker", release="1.0.0", destination=store)


def test_a_machine_without_certificates_is_named_as_such(monkeypatch, tmp_path: Path) -> None:
    """A small image may lack them; the library says in its first line only that it could not be built."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    with pytest.raises(UnsupportedError, match="no certificates of authorities") as refused:
        Bucket("s3://policies/robots")
    assert "ca-certificates" in refused.value.remedy


@pytest.mark.parametrize("what", ["changed", "longer", "gone"])
def test_a_blob_that_is_not_what_its_name_says_is_refused(
    sites: tuple[World, World], store: str, tmp_path: Path, what: str
) -> None:
    """Nothing is published."""
    here, there = sites
    export_release(here.control, model="walker", release="1.0.0", destination=store)
    artifact = read_artifact(BucketReleases(Bucket(store)).manifest("walker:1.0.0"))
    path = tmp_path / "store/blobs/sha256" / artifact.files[0].digest[7:]
    content = path.read_bytes()
    path.unlink()
    if what != "gone":
        path.write_bytes(content + b"x" if what == "longer" else bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(IntegrityError):
        import_release(there.control, f"{store}@walker:1.0.0")
    assert not there.state.releases


def test_a_setting_that_names_no_store_is_refused() -> None:
    """Before anything is asked."""
    with pytest.raises(UsageError, match="expected an address that begins with one of s3://"):
        load(fleet={"store": "ftp://host/x"})


@pytest.mark.parametrize("address", ["s3://user:secret@bucket", "s3://bucket?x=secret", "s3://", "file://host/secret"])
def test_an_address_with_a_password_is_refused_and_not_shown(address: str) -> None:
    """Credentials come by the environment; an address without a bucket, or with a host for a folder, is refused too."""
    with pytest.raises(UsageError) as error:
        Bucket(address)
    assert "@" not in error.value.problem
    assert "?" not in error.value.problem


def test_only_one_of_two_writers_creates_an_object(store: str) -> None:
    """The second finds what the first wrote; the same bytes again are the same object."""
    bucket = Bucket(store)
    assert bucket.create("journal/0", b"mine")
    assert not bucket.create("journal/0", b"ours")
    assert bucket.create("journal/0", b"mine")
    assert bucket.get("journal/0", most_bytes=4) == b"mine"
    with pytest.raises(IntegrityError, match="at most 3"):
        bucket.get("journal/0", most_bytes=3)
    assert bucket.get("journal/1", most_bytes=3) is None


def test_a_large_blob_comes_in_parts(sites: tuple[World, World], store: str, monkeypatch) -> None:
    """Each part has the time of one request; what comes is held against the digest as a whole."""
    here, there = sites
    monkeypatch.setattr(bucket_module, "_PART_BYTES", 7)
    export_release(here.control, model="walker", release="1.0.0", destination=store)
    assert import_release(there.control, f"{store}@walker:1.0.0").done == "published"
