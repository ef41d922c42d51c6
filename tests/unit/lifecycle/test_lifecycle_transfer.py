"""A release moves between sites byte for byte, or not at all; nothing inside it names a path here."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from crash_states import crash_states
from hypothesis import given, settings
from hypothesis import strategies as st
from lifecycle_exports import not_intact, publish_large, spoil, tree
from signing_people import People
from world import World, left

from policyctl.adapters.oci_layout import Layout
from policyctl.adapters.signing import Signer
from policyctl.domain.journal import RecordKind
from policyctl.domain.manifest import FileEntry, Manifest, canonical_json, digest_of
from policyctl.domain.oci import MOST_BYTES, Artifact, ReleaseOrigin, artifact_of, check_release_manifest, read_artifact
from policyctl.errors import IntegrityError, UsageError
from policyctl.integrity import read_release
from policyctl.services.releases.gc import gc
from policyctl.services.releases.transfer import export_release, import_release
from policyctl.services.rollout.promote import promote
from policyctl.services.trust.signing import sign

D = "sha256:" + "ab" * 32


@pytest.fixture
def other(tmp_path, monkeypatch) -> World:
    """Another site."""
    return World(tmp_path / "other", monkeypatch)


@pytest.fixture
def layout(world: World, people: People, tmp_path: Path) -> Path:
    """An export of a signed release."""
    publish_large(world, "1.0.0", 1)
    _sign(world, "1.0.0", people.signer("alice"), "alice")
    export_release(world.control, model="walker", release="1.0.0", destination=str(tmp_path / "layout"))
    return tmp_path / "layout"


def _sign(world: World, release: str, signer: Signer, name: str) -> None:
    sign(world.control, signer, model="walker", release=release, name=name)


def test_a_release_arrives_byte_for_byte_with_its_signatures(world: World, other: World, layout: Path) -> None:
    """Same files, same manifest, same digest; the journal names who published it first; then it can be promoted."""
    other.publish("0.9.0", 7)
    done = import_release(other.control, str(layout))
    assert (done.done, done.slot) == ("published", 2)
    here, there = world.root / "walker" / "1", other.root / "walker" / "2"
    assert tree(here) == tree(there)
    published = other.state.release("walker", "1.0.0")
    assert published.manifest_digest == world.state.release("walker", "1.0.0").manifest_digest
    assert read_release(there, expected_digest=published.manifest_digest)
    kept = [r for r in other.control.repository.journal.records() if r.kind is RecordKind.PUBLISHED]
    origin = kept[-1].body["origin"]
    first = world.state.release("walker", "1.0.0")
    assert (origin["time"], origin["publisher"], origin["artifact"]) == (first.time, first.actor, done.digest)
    here, there = (w.control.repository.control / "signatures/walker/1.0.0/alice.sig" for w in (world, other))
    assert there.read_bytes() == here.read_bytes()
    assert other.state.signatures["walker", "1.0.0", "alice"].digest == digest_of(here.read_bytes())
    assert not_intact(other) == []
    assert list((other.control.repository.control / "imports").iterdir()) == []


def test_the_same_release_is_the_same_artifact_everywhere(world: World, other: World, layout: Path, tmp_path) -> None:
    """Exported again, and exported by the site that imported it: one digest, nothing carried twice."""
    first = read_artifact(Layout(layout).manifest("walker:1.0.0")).digest
    again = export_release(world.control, model="walker", release="1.0.0", destination=str(layout))
    assert (again.digest, again.sent) == (first, 0)
    import_release(other.control, str(layout))
    there = export_release(other.control, model="walker", release="1.0.0", destination=str(tmp_path / "third"))
    assert there.digest == first
    assert tree(layout) == tree(tmp_path / "third")


def test_a_folder_holds_several_releases(world: World, other: World, layout: Path) -> None:
    """Each is named MODEL:RELEASE; without a name several are refused, with their names."""
    publish_large(world, "1.1.0", 2)
    publish_large(world, "1.0.0", 3, model="runner")
    for model, release in (("walker", "1.1.0"), ("runner", "1.0.0")):
        export_release(world.control, model=model, release=release, destination=str(layout))
    with pytest.raises(UsageError, match="holds 3 releases") as refusal:
        import_release(other.control, str(layout))
    assert "walker:1.1.0" in refusal.value.remedy
    assert import_release(other.control, f"{layout}@runner:1.0.0").model == "runner"
    assert import_release(other.control, f"{layout}@walker:1.1.0").release == "1.1.0"
    with pytest.raises(UsageError, match=r"by the name 'walker:9\.0\.0'"):
        import_release(other.control, f"{layout}@walker:9.0.0")


def test_a_pinned_digest_is_what_comes_or_nothing(other: World, layout: Path) -> None:
    """Another artifact is refused before a byte is fetched."""
    digest = read_artifact(Layout(layout).manifest("")).digest
    before = tree(other.root)
    with pytest.raises(IntegrityError, match=f"expected {D}"):
        import_release(other.control, str(layout), digest=D)
    with pytest.raises(UsageError, match="is not a digest"):
        import_release(other.control, str(layout), digest="abc")
    assert tree(other.root) == before
    assert import_release(other.control, str(layout), digest=digest).done == "published"


def test_what_is_here_already_is_left_and_new_signatures_are_added(
    world: World, other: World, people: People, layout: Path
) -> None:
    """Importing twice changes nothing; a signature that was made later arrives."""
    import_release(other.control, str(layout))
    before = tree(other.root)
    assert import_release(other.control, str(layout)).done == "here already"
    assert tree(other.root) == before
    _sign(world, "1.0.0", people.signer("bob"), "bob")
    export_release(world.control, model="walker", release="1.0.0", destination=str(layout))
    assert import_release(other.control, str(layout)).done == "here already"
    added = set(tree(other.root)) - set(before)
    assert added == {".policyctl/signatures/walker/1.0.0/bob.sig"}


def test_two_people_who_signed_under_one_name_at_two_sites_both_arrive(
    world: World, other: World, people: People, layout: Path
) -> None:
    """Neither replaces the other; who arrives later is named by the key."""
    import_release(other.control, str(layout))
    _sign(other, "1.0.0", people.signer("bob"), "carol")
    _sign(world, "1.0.0", people.signer("mallory"), "carol")
    export_release(world.control, model="walker", release="1.0.0", destination=str(layout))
    import_release(other.control, str(layout))
    names = {s.name: s.key for s in other.state.signatures_of("walker", "1.0.0")}
    assert set(names) == {"alice", "carol", f"key-{people.signer('mallory').fingerprint[7:23]}"}
    assert names["carol"] == people.signer("bob").fingerprint
    assert not_intact(other) == []


def test_only_what_the_journal_recorded_travels(world: World, other: World, people: People, layout: Path) -> None:
    """A file among the signatures that nobody recorded stays here; one that was changed stops the export."""
    folder = world.control.repository.control / "signatures" / "walker" / "1.0.0"
    (folder / "stranger.sig").write_bytes(b"not a bundle")
    export_release(world.control, model="walker", release="1.0.0", destination=str(layout))
    import_release(other.control, str(layout))
    assert not (other.control.repository.control / "signatures" / "walker" / "1.0.0" / "stranger.sig").exists()
    spoil(folder / "alice.sig")
    with pytest.raises(IntegrityError, match=r"alice\.sig is sha256:.*the journal says"):
        export_release(world.control, model="walker", release="1.0.0", destination=str(layout))


def test_a_number_that_was_used_for_other_bytes_is_refused(other: World, layout: Path) -> None:
    """And the release that has it stays."""
    publish_large(other, "1.0.0", 5)
    before = tree(other.root)
    with pytest.raises(UsageError, match="published here with other bytes"):
        import_release(other.control, str(layout))
    assert tree(other.root) == before


def test_a_collected_release_comes_back_into_its_own_slot(world: World, layout: Path) -> None:
    """Same slot, same digest, and it can be promoted again; another gc may take it again."""
    for number in (1, 2, 3):
        publish_large(world, f"1.{number}.0", number + 1)
    promote(world.control, model="walker", release="1.3.0", alias="production")
    from policyctl.domain.retention import RetentionPolicy

    gc(world.control, policy=RetentionPolicy(1, 0, 1), delete=True)
    assert not (world.root / "walker" / "1").exists()
    done = import_release(world.control, str(layout))
    assert (done.done, done.slot) == ("restored", 1)
    assert not_intact(world) == []
    promote(world.control, model="walker", release="1.0.0", alias="production")
    assert world.answered() == "1.0.0"


def test_a_dry_run_changes_nothing_on_either_side(world: World, other: World, layout: Path, tmp_path: Path) -> None:
    """It says what would be done."""
    before = tree(other.root)
    planned = import_release(other.control, str(layout), dry_run=True)
    assert (planned.done, planned.dry_run) == ("published", True)
    assert tree(other.root) == before
    export_release(world.control, model="walker", release="1.0.0", destination=str(tmp_path / "new"), dry_run=True)
    assert not (tmp_path / "new").exists()


def test_a_release_that_is_not_intact_is_not_exported(world: World, layout: Path, tmp_path: Path) -> None:
    """Nothing names the artifact."""
    spoil(world.root / "walker" / "1" / "model.onnx")
    with pytest.raises(IntegrityError, match=r"model\.onnx"):
        export_release(world.control, model="walker", release="1.0.0", destination=str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_a_damaged_release_is_not_called_here_already(other: World, layout: Path) -> None:
    """It is refused, and the remedy is the repair from that very source."""
    import_release(other.control, str(layout))
    spoil(other.root / "walker" / "1" / "model.onnx")
    with pytest.raises(IntegrityError, match=r"model\.onnx") as refusal:
        import_release(other.control, str(layout))
    assert f"repair --from {layout}" in refusal.value.remedy


@pytest.mark.parametrize("place", ["a file", "another folder"])
def test_what_is_something_else_is_not_written_into(world: World, layout: Path, tmp_path: Path, place: str) -> None:
    """A folder with other things in it, or a file, is refused as a destination."""
    target = tmp_path / "taken"
    if place == "a file":
        target.write_text("mine")
    else:
        target.mkdir()
        (target / "mine").write_text("mine")
    with pytest.raises(UsageError):
        export_release(world.control, model="walker", release="1.0.0", destination=str(target))
    assert (target if target.is_file() else target / "mine").read_text() == "mine"


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / "sha256" / digest.removeprefix("sha256:")


def _forge(layout: Path, change: Callable[[dict], None]) -> None:
    """Replace the artifact by another whose digests are right."""
    index = json.loads((layout / "index.json").read_text())
    content = json.loads(_blob(layout, index["manifests"][0]["digest"]).read_text())
    change(content)
    text = canonical_json(content)
    _blob(layout, digest_of(text)).write_bytes(text)
    index["manifests"][0]["digest"] = digest_of(text)
    (layout / "index.json").write_text(json.dumps(index))


def _title(content: dict, path: str, layer: int = 0) -> None:
    content["layers"][layer]["annotations"]["org.opencontainers.image.title"] = path


FORGERIES: dict[str, Callable[[dict], object]] = {
    "a path that leads out": lambda c: _title(c, "../../../etc/cron.d/x"),
    "an absolute path": lambda c: _title(c, "/etc/passwd"),
    "a hidden path": lambda c: _title(c, ".policyctl/journal.jsonl"),
    "a backslash": lambda c: _title(c, "..\\x"),
    "a line feed": lambda c: _title(c, "a\nb"),
    "an empty path": lambda c: _title(c, ""),
    "a path that is not a text": lambda c: _title(c, 5),  # type: ignore[arg-type]
    "another path": lambda c: _title(c, "other.onnx"),
    "one path twice": lambda c: _title(c, c["layers"][1]["annotations"]["org.opencontainers.image.title"]),
    "the manifest among the files": lambda c: _title(c, "manifest.json"),
    "a signature that leads out": lambda c: _title(c, "../../journal.jsonl", -1),
    "a digest that is a path": lambda c: c["layers"][0].update(digest="sha256:../../../../etc/passwd"),
    "a digest of another kind": lambda c: c["layers"][0].update(digest="sha512:" + "a" * 128),
    "a size below zero": lambda c: c["layers"][0].update(size=-1),
    "a size that is not a number": lambda c: c["layers"][0].update(size="5"),
    "another size": lambda c: c["layers"][0].update(size=c["layers"][0]["size"] + 1),
    "a layer less": lambda c: c["layers"].pop(0),
    "no layers": lambda c: c.update(layers=[]),
    "layers that are a number": lambda c: c.update(layers=5),
    "another model": lambda c: c["annotations"].update({"io.policyctl.model": "runner"}),
    "a model that is a path": lambda c: c["annotations"].update({"io.policyctl.model": "../x"}),
    "another release": lambda c: c["annotations"].update({"org.opencontainers.image.version": "6.6.6"}),
    "another config": lambda c: c["config"].update(digest=c["layers"][0]["digest"], size=c["layers"][0]["size"]),
    "another artifact type": lambda c: c.update(artifactType="application/vnd.cncf.helm.config.v1+json"),
    "a key more": lambda c: c.update(subject={}),
    "no annotations": lambda c: c.pop("annotations"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_artifact_is_refused_and_leaves_nothing(other: World, layout: Path, name: str) -> None:
    """Every digest of it may be right: what it says is still not a release. Nothing is written outside."""
    _forge(layout, FORGERIES[name])  # type: ignore[arg-type]
    outside = tree(other.folder)
    with pytest.raises((IntegrityError, UsageError)):
        import_release(other.control, str(layout))
    after = {k: v for k, v in tree(other.folder).items() if "/imports" not in k}
    assert after == outside
    assert other.state.releases == {}


def _swap(layout: Path, artifact: Artifact) -> None:
    one, two = (_blob(layout, f.digest) for f in artifact.files[:2])
    content = one.read_bytes()
    spoil(one, two.read_bytes())
    spoil(two, content)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGE: dict[str, Callable[[Path, Artifact], object]] = {
    "a changed byte": lambda p, a: spoil(_blob(p, a.files[0].digest)),
    "a cut blob": lambda p, a: spoil(_blob(p, a.files[0].digest), b""),
    "a blob more than it should be": lambda p, a: spoil(_blob(p, a.files[0].digest), bytes(10_000_000)),
    "two blobs swapped": _swap,
    "a missing blob": lambda p, a: _blob(p, a.files[0].digest).unlink(),
    "a blob that is a link": lambda p, a: [
        _blob(p, a.files[0].digest).rename(p / "moved"),
        _blob(p, a.files[0].digest).symlink_to(p / "moved"),
    ],
    "a blob that is a folder": lambda p, a: [_blob(p, a.files[0].digest).unlink(), _blob(p, a.files[0].digest).mkdir()],
    "a blob that is a pipe": lambda p, a: [
        _blob(p, a.files[0].digest).unlink(),
        os.mkfifo(_blob(p, a.files[0].digest)),
    ],
    "a changed config": lambda p, a: spoil(_blob(p, a.config.digest)),
    "a changed signature": lambda p, a: spoil(_blob(p, a.signatures[0].digest)),
    "a changed artifact": lambda p, a: spoil(_blob(p, a.digest)),
    "an index that is a list": lambda p, a: (p / "index.json").write_text("[]"),
    "an index that is cut": lambda p, a: (p / "index.json").write_text('{"manifests"'),
    "an index with a path": lambda p, a: (p / "index.json").write_text('{"manifests":[{"digest":"sha256:../x"}]}'),
    "no mark": lambda p, a: (p / "oci-layout").unlink(),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_layout_is_refused_and_the_whole_one_then_arrives(
    world: World, other: World, layout: Path, name: str
) -> None:
    """Nothing is published of it; a later import from an intact one is not hindered by what was fetched."""
    artifact = read_artifact(Layout(layout).manifest(""))
    DAMAGE[name](layout, artifact)
    with pytest.raises((IntegrityError, UsageError)):
        import_release(other.control, str(layout))
    assert other.state.releases == {}
    assert not (other.root / "walker").exists()
    fresh = layout.parent / "fresh"
    export_release(world.control, model="walker", release="1.0.0", destination=str(fresh))
    assert import_release(other.control, str(fresh), digest=artifact.digest).done == "published"
    assert not_intact(other) == []


def test_an_export_mends_a_damaged_layout(world: World, other: World, layout: Path) -> None:
    """A blob that is there and wrong is written again."""
    artifact = read_artifact(Layout(layout).manifest(""))
    spoil(_blob(layout, artifact.files[0].digest))
    assert export_release(world.control, model="walker", release="1.0.0", destination=str(layout)).sent == 1
    assert import_release(other.control, str(layout)).done == "published"


def test_an_import_that_was_killed_anywhere_is_finished_by_the_next(tmp_path, monkeypatch) -> None:
    """At every crash point: nothing published, or a whole release; what was fetched is not fetched again."""
    origin = World(tmp_path / "origin", monkeypatch)
    publish_large(origin, "1.0.0", 1)
    layout = tmp_path / "layout"
    export_release(origin.control, model="walker", release="1.0.0", destination=str(layout))
    begun, fetched = World(tmp_path / "begun", monkeypatch), set()
    for state in crash_states(begun, tmp_path / "states", lambda: import_release(begun.control, str(layout))):
        world = left(state, monkeypatch)
        if world.state.releases:
            assert not_intact(world) == [], state
        done = import_release(world.control, str(layout))
        fetched.add(done.sent)
        assert ("walker", "1.0.0") in world.state.releases
        assert not_intact(world) == [], state
    assert len(fetched) > 3, "some tries found some of the blobs"


names = st.from_regex(r"[a-z][a-z0-9_.-]{0,6}", fullmatch=True)
entries = st.builds(
    FileEntry, names.map(lambda n: f"d/{n}"), st.integers(0, 2**40), st.binary(max_size=4).map(digest_of)
)


@st.composite
def artifacts(draw) -> Artifact:
    """Artifacts of any release."""
    files = draw(st.lists(entries, min_size=1, max_size=5, unique_by=lambda e: e.path))
    signatures = draw(st.lists(entries, max_size=3, unique_by=lambda e: e.path))
    manifest = Manifest(draw(names), draw(st.sampled_from(["1.0.0", "2.1.0-rc.1+b.5"])), tuple(sorted(files)))
    return artifact_of(manifest, ReleaseOrigin(draw(st.text(max_size=9)), draw(st.text(max_size=9))), signatures)


@settings(max_examples=100, deadline=None)
@given(artifacts())
def test_an_artifact_survives_its_text(artifact: Artifact) -> None:
    """Reading what was written gives the artifact, whose digest is the text's."""
    text = artifact.to_bytes()
    assert read_artifact(text) == artifact
    assert artifact.digest == digest_of(text)
    manifest = Manifest(artifact.model, artifact.release, artifact.files)
    assert check_release_manifest(artifact, manifest.to_bytes()) == manifest


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b" " * (MOST_BYTES + 1)])
def test_what_is_no_artifact_is_refused(content: bytes) -> None:
    """Not JSON, another thing, too deep or too long."""
    with pytest.raises(IntegrityError, match="OCI manifest"):
        read_artifact(content)
