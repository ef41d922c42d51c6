"""Release export and import against a real registry (Debian's docker-registry)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import urllib3

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "moves"))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "lifecycle"))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "signing"))

from embedded import PATIENCE_S
from lifecycle_exports import not_intact, publish_large, tree
from signing_people import People
from world import World

from policyctl.adapters.registry import Registry
from policyctl.adapters.registry_reference import parse_reference
from policyctl.domain.oci import read_artifact
from policyctl.errors import IntegrityError, PolicyctlError, ServerError, UsageError
from policyctl.services.control import Control
from policyctl.services.releases.repair import repair
from policyctl.services.releases.transfer import export_release, import_release
from policyctl.services.trust.signing import sign
from policyctl.serving.ports import free_ports
from policyctl.settings import RegistrySettings, load

PROGRAM = shutil.which("docker-registry") or ""
pytestmark = pytest.mark.skipif(not PROGRAM, reason="docker-registry is not installed (apt install docker-registry)")
# The bcrypt of "secret", for the user "ann".
HTPASSWD = "ann:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"


@contextmanager
def registry(folder: Path, *, more: str = "") -> Iterator[str]:
    """A registry on this machine; its ``host:port``."""
    address = f"127.0.0.1:{free_ports(1)[0]}"
    folder.mkdir(exist_ok=True)
    (folder / "config.yml").write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder / 'data'}}}}}\n"
        f"http: {{addr: '{address}'}}\n{more}"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("REGISTRY_")}
    process = subprocess.Popen(
        [PROGRAM, "serve", folder / "config.yml"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**environment, "OTEL_TRACES_EXPORTER": "none"},
    )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                urllib3.request("GET", f"http://{address}/v2/", retries=False, timeout=1.0)
                break
            except urllib3.exceptions.HTTPError:
                assert process.poll() is None, "docker-registry did not start"
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """A registry that asks nobody who they are."""
    with registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    """A site with a signed release."""
    made = World(tmp_path / "here", monkeypatch)
    publish_large(made, "1.0.0+build.5", 1)
    (tmp_path / "keys").mkdir()
    alice = People(tmp_path / "keys").signer("alice")
    sign(made.control, alice, model="walker", release="1.0.0+build.5", name="alice")
    return made


@pytest.fixture
def other(tmp_path, monkeypatch) -> World:
    """Another site."""
    return World(tmp_path / "there", monkeypatch)


def test_a_release_travels_through_a_registry_byte_for_byte(world: World, other: World, address: str, tmp_path) -> None:
    """Sent once, fetched by digest, identical there, with its signature; a folder holds the very same artifact."""
    place = f"oci://{address}/policies/walker"
    sent = export_release(world.control, model="walker", release="1.0.0+build.5", destination=place)
    assert sent.sent == len(
        read_artifact(Registry(parse_reference(place), RegistrySettings()).manifest(sent.digest)).blobs
    )
    again = export_release(world.control, model="walker", release="1.0.0+build.5", destination=place)
    assert (again.sent, again.digest) == (0, sent.digest)
    folder = export_release(world.control, model="walker", release="1.0.0+build.5", destination=str(tmp_path / "f"))
    assert folder.digest == sent.digest
    with pytest.raises(IntegrityError, match="expected"):
        import_release(other.control, f"{place}:1.0.0_build.5", digest="sha256:" + "0" * 64)
    done = import_release(other.control, f"{place}:1.0.0_build.5", digest=sent.digest)
    assert (done.done, done.manifest_digest) == ("published", sent.manifest_digest)
    assert tree(world.root / "walker") == tree(other.root / "walker")
    kept = [w.control.repository.control / "signatures/walker/1.0.0+build.5/alice.sig" for w in (world, other)]
    assert kept[0].read_bytes() == kept[1].read_bytes()
    assert import_release(other.control, f"{place}@{sent.digest}").done == "here already"
    path = other.root / "walker" / "1" / "model.onnx"
    path.chmod(0o644)
    path.write_bytes(b"wrong")
    repair(other.control, sources=[f"{place}:1.0.0_build.5"])
    assert not_intact(other) == []


def test_a_download_goes_on_where_it_was_cut(world: World, address: str, tmp_path: Path) -> None:
    """Half of a blob is there: the rest is fetched. Half of something else: all of it is."""
    place = f"oci://{address}/resumed"
    export_release(world.control, model="walker", release="1.0.0+build.5", destination=f"{place}:x")
    store = Registry(parse_reference(f"{place}:x"), RegistrySettings())
    blob = max(read_artifact(store.manifest("")).files, key=lambda f: f.size_bytes)
    whole = (world.root / "walker" / "1" / blob.path).read_bytes()
    for cut in (whole[: len(whole) // 2], b"x" * (len(whole) // 2), whole, whole + b"x", b""):
        target = tmp_path / f"blob{len(cut)}{cut[:1].hex()}"
        target.with_name(target.name + ".part").write_bytes(cut)
        store.fetch(blob, target)
        assert target.read_bytes() == whole
        assert not target.with_name(target.name + ".part").exists()


def test_what_is_not_there_is_said(world: World, other: World, address: str) -> None:
    """No such name, no such tag, no tag at all, nobody listening: each in words, and nothing is changed."""
    for place, kind, said in (
        (f"oci://{address}/nothing:1.0.0", UsageError, "404"),
        (f"oci://{address}/nothing", UsageError, "names no release"),
        ("oci://127.0.0.1:9/walker:1.0.0", ServerError, "does not answer"),
    ):
        with pytest.raises(kind, match=said):
            import_release(other.control, place)
    assert not list((other.control.repository.control).glob("imports/*"))
    with pytest.raises(PolicyctlError, match="does not answer"):
        export_release(world.control, model="walker", release="1.0.0+build.5", destination="oci://127.0.0.1:9/walker")


def test_a_registry_that_changed_a_blob_is_not_believed(world: World, other: World, tmp_path: Path) -> None:
    """One wrong byte in its storage: refused by name, nothing published."""
    with registry(tmp_path / "registry") as own:
        place = f"oci://{own}/walker:1"
        export_release(world.control, model="walker", release="1.0.0+build.5", destination=place)
        large = max((tmp_path / "registry" / "data").rglob("data"), key=lambda p: p.stat().st_size)
        content = bytearray(large.read_bytes())
        content[5] ^= 1
        large.write_bytes(content)
        with pytest.raises(IntegrityError, match=r"sub/weights\.bin came as sha256:"):
            import_release(other.control, place)
    assert other.state.releases == {}


def test_a_registry_may_ask_who_one_is(world: World, tmp_path: Path) -> None:
    """Without a password, and with a wrong one, the remedy names the settings; with the right one it works."""
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / "htpasswd").write_text(HTPASSWD)
    more = f"auth: {{htpasswd: {{realm: here, path: {tmp_path / 'registry' / 'htpasswd'}}}}}\n"
    with registry(tmp_path / "registry", more=more) as own:
        for user, password, works in (("", "", False), ("ann", "wrong", False), ("ann", "secret", True)):
            chosen = load(repository=world.root, registry={"username": user, "password": password})
            control = Control.of(chosen)

            def send(control: Control = control) -> object:
                place = f"oci://{own}/walker"
                return export_release(control, model="walker", release="1.0.0+build.5", destination=place)

            if works:
                assert send()
                continue
            with pytest.raises(UsageError, match="401") as refusal:
                send()
            assert "POLICYCTL_REGISTRY__PASSWORD" in refusal.value.remedy


def test_other_tools_carry_the_artifact_unchanged(world: World, other: World, address: str, tmp_path: Path) -> None:
    """skopeo copies it from a folder to a registry and back into a folder; digest and bytes are the same."""
    skopeo = shutil.which("skopeo")
    if skopeo is None:
        pytest.skip("skopeo is not installed (apt install skopeo)")
    sent = export_release(world.control, model="walker", release="1.0.0+build.5", destination=str(tmp_path / "one"))
    for source, target in (
        (f"oci:{tmp_path / 'one'}:walker:1.0.0+build.5", f"docker://{address}/carried:x"),
        (f"docker://{address}/carried:x", f"oci:{tmp_path / 'two'}:x"),
    ):
        command = [skopeo, "--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false"]
        subprocess.run([*command, source, target], check=True, capture_output=True)
    assert import_release(other.control, f"{tmp_path / 'two'}@x", digest=sent.digest).done == "published"
    assert tree(world.root / "walker") == tree(other.root / "walker")
