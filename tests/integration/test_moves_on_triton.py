"""Promotion and rollback on the real Triton, under load and under attack."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from embedded import PATIENCE_S, Embedded, exported

from policyctl.errors import ServerError
from policyctl.measuring.background_load import BackgroundLoad
from policyctl.measuring.load import LoadOptions, read_expected
from policyctl.measuring.load_records import AliasSpan, answers_outside_aliases
from policyctl.services.moves.rollback import rollback
from policyctl.services.rollout.promote import promote

pytestmark = pytest.mark.server

EXPECTED = {"1.0.0": 1, "1.1.0": 2}


def _load(server: Embedded, clients: int = 4) -> BackgroundLoad:
    options = LoadOptions(model="walker", url=server.endpoint["grpc"], clients=clients, deadline_s=60, duration_s=3600)
    return BackgroundLoad(options, {r: read_expected(exported(seed)) for r, seed in EXPECTED.items()})


def test_moves_under_load_lose_no_request_and_no_answer_is_a_strangers(served) -> None:
    """Promotions and rollbacks in turn, with clients asking: none fails, none is wrong, none comes too early."""
    timeline = [AliasSpan("1.0.0", 0)]
    with _load(served) as load:
        for _ in range(3):
            for move in (
                lambda: promote(served.control, model="walker", release="1.1.0", alias="production"),
                lambda: rollback(served.control, model="walker", alias="production"),
            ):
                before, begun = timeline.pop(), time.monotonic_ns()
                moved = move()
                ended = time.monotonic_ns()
                timeline += [
                    AliasSpan(before.release, before.from_ns, ended),
                    AliasSpan(moved.move.target.release, begun),
                ]
    report = load.report
    assert report.clean, report
    assert set(report.by_release) == {"1.0.0", "1.1.0"}
    assert answers_outside_aliases(load.requests, timeline) == 0
    assert served.answered_by() == "1.0.0"


def test_a_candidate_under_certification_takes_no_traffic(served) -> None:
    """While a release is validated beside the incumbent, every answer is the incumbent's."""
    with _load(served, clients=2) as load:
        results = served.json("validate", "walker", "1.1.0", "--gates", "none")
    assert results["verdict"] == "passed"
    assert set(load.report.by_release) == {"1.0.0"}
    assert load.report.clean


def test_other_aliases_are_reachable_and_apart(served) -> None:
    """`staging` answers under its own name with its own release."""
    served.run("promote", "walker", "1.1.0", "--alias", "staging")
    assert (served.answered_by("staging"), served.answered_by()) == ("1.1.0", "1.0.0")


def test_every_format_is_served(served) -> None:
    """ONNX Runtime and TorchScript certify and serve the same release as OpenVINO does."""
    for form in ("onnx", "torchscript", "openvino"):
        served.run("promote", "walker", "1.1.0", "--alias", "other", "--format", form)
        (row,) = [a for a in served.json("status")["aliases"] if a["alias"] == "other"]
        assert (row["format"], served.answered_by("other")) == (form, "1.1.0")


def _attack(path: Path, kind: str) -> None:
    path.parent.chmod(0o755)
    if kind == "added":
        path.with_name("extra.bin").write_bytes(b"x")
        return
    content = path.read_bytes()
    shutil.copy(path, path.parent.parent / "aside")
    path.unlink()
    if kind == "bit":
        changed = bytearray(content)
        changed[len(content) // 2] ^= 1
        path.write_bytes(changed)
    elif kind == "truncated":
        path.write_bytes(content[:-1])
    elif kind == "link":
        path.symlink_to(path.parent.parent / "aside")


FILES = (
    "contract.json",
    "golden.npz",
    "manifest.json",
    "model.bin",
    "model.onnx",
    "model.pt",
    "model.xml",
    "model_card.yaml",
    "parity.json",
)
ATTACKS = [(name, "bit") for name in FILES] + [("model.bin", k) for k in ("truncated", "removed", "link", "added")]


def test_every_change_is_refused_by_verify_promote_backend_and_start(server) -> None:
    """One bit, a byte less, a file more or fewer, a link: each refused everywhere, and the incumbent serves on."""
    server.publish("1.0.0", 1)
    server.start()
    server.run("promote", "walker", "1.0.0")
    for number, (name, kind) in enumerate(ATTACKS):
        release = f"2.{number}.0"
        server.publish(release, 2)
        slot = server.root / "walker" / str(number + 2)
        _attack(slot / name, kind)
        verify = server.run("verify", "walker", check=False)
        assert verify.returncode == 3, (name, kind)
        assert release in verify.stdout
        promote_ = server.run("promote", "walker", release, check=False)
        assert promote_.returncode == 3, (name, kind, promote_.stderr)
        shutil.rmtree(slot.parent / "aside", ignore_errors=True)
        (slot.parent / "aside").unlink(missing_ok=True)
    assert server.answered_by() == "1.0.0"
    _the_backend_refuses_what_the_control_plane_did_not_see(server)
    server.stop()
    _the_start_refuses(server)


def _the_backend_refuses_what_the_control_plane_did_not_see(server: Embedded) -> None:
    """The control plane's check is left out, as if the file changed right after it."""
    repository = server.control.repository
    state = repository.journal.state()
    incumbent = state.aliases["walker", "production"].placement
    for number, (name, kind) in enumerate(ATTACKS):
        published = state.releases["walker", f"2.{number}.0"]
        text = incumbent.config.replace("versions: 1", f"versions: {published.slot}")
        text = text.replace(incumbent.manifest_digest, published.manifest_digest)
        text = text.replace('"1.0.0"', f'"{published.release}"')
        # As a move does it: the supervisor ends loads that nobody waits for.
        with repository.writer("a test", wait_s=PATIENCE_S):
            repository.place("walker.candidate", published.slot)
            repository.configure("walker.candidate", text)
            with server.control.triton() as client, pytest.raises(ServerError) as refused:
                client.load("walker.candidate", published.slot)
            shutil.rmtree(server.root / "walker.candidate")
        expected = "extra.bin" if kind == "added" else name
        assert "cannot load walker.candidate" in refused.value.problem, (name, kind)
        assert expected in refused.value.problem, (name, kind, refused.value.problem)
    assert server.answered_by() == "1.0.0"


def _the_start_refuses(server: Embedded) -> None:
    weights = server.root / "walker" / "1" / "model.bin"
    weights.parent.chmod(0o755)
    weights.chmod(0o644)
    content = bytearray(weights.read_bytes())
    content[0] ^= 1
    weights.write_bytes(content)
    server.start()
    server.has_said("REFUSED walker")
    server.has_said("model.bin")
    assert server.answers() is None


def test_a_config_edited_by_hand_is_put_back_at_start(server) -> None:
    """The server serves what the journal recorded, not what somebody wrote into config.pbtxt."""
    server.publish("1.0.0", 1)
    server.start()
    server.run("promote", "walker", "1.0.0")
    server.stop()
    config = server.root / "walker" / "config.pbtxt"
    config.write_text(config.read_text().replace("max_batch_size: 64", "max_batch_size: 1"))
    assert server.run("verify", check=False).returncode == 3
    server.start()
    assert server.answered_by() == "1.0.0"
    assert server.run("verify").returncode == 0
