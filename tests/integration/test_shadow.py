"""Recording live traffic, replaying it, and playing against the incumbent, on the real Triton."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from embedded import PATIENCE_S, Embedded, embedded, needs_guard, wait_for

from policyctl.client import PolicyClient
from policyctl.demo.background_server import COMMAND
from policyctl.domain.manifest import canonical_json, digest_of
from policyctl.domain.recording import Recording
from policyctl.errors import ServerError
from policyctl.hashing import hash_file
from policyctl.serving.memory import usage

pytestmark = [pytest.mark.server, needs_guard]


def _export(folder: Path, *, bias: float) -> Path:
    """A policy that balances CartPole; `bias` is added to what speaks for pushing left."""
    import gymnasium as gym
    import torch

    from policyctl_exporters import export_policy

    layer = torch.nn.Linear(4, 2)
    push = torch.tensor([0.05, 0.25, 1.5, 1.0])
    layer.weight.data, layer.bias.data = torch.stack([-push, push]), torch.tensor([bias, -bias])
    export_policy(
        torch.nn.Sequential(layer),
        folder,
        observation_space=gym.spaces.Box(-5, 5, (4,)),
        action_space=gym.spaces.Discrete(2),
        golden_rows=16,
    )
    return folder


def _forge_parity(folder: Path) -> None:
    """Make the parity report speak of the files that are there: only the server's own answers can tell now."""
    report = json.loads((folder / "parity.json").read_bytes())
    for seen in report["formats"].values():
        seen["files"] = {name: hash_file(folder, name).digest for name in seen["files"]}
    (folder / "parity.json").write_bytes(canonical_json(report))


@pytest.fixture(scope="module")
def cart(tmp_path_factory) -> Iterator[Embedded]:
    """Releases of a policy that balances: the same twice, one that is biased, and one with the wrong files in it."""
    folder = tmp_path_factory.mktemp("cart")
    with pytest.MonkeyPatch.context() as patch, embedded(folder) as server:
        patch.setenv("POLICYCTL_SERVING__NATIVE", "off")  # one test kills the process of a backend
        good, biased = _export(folder / "good", bias=0.0), _export(folder / "biased", bias=1.5)
        wrong = shutil.copytree(good, folder / "wrong")
        for name in ("model.onnx", "model.xml", "model.bin", "model.pt"):
            (wrong / name).unlink()
            shutil.copy(biased / name, wrong / name)
        _forge_parity(wrong)
        for release, source in (("1.0.0", good), ("1.1.0", good), ("2.0.0", biased), ("3.0.0", wrong)):
            server.run("publish", str(source), "--model", "cart", "--release", release)
        server.start()
        server.run("promote", "cart", "1.0.0", "--gates", "none")
        yield server


@contextmanager
def _playing(server: Embedded) -> Iterator[dict[str, tuple[np.ndarray, int, str]]]:
    """One client that plays CartPole; what it sent and got, by request id."""
    import gymnasium as gym

    seen: dict[str, tuple[np.ndarray, int, str]] = {}
    stop = threading.Event()

    def play() -> None:
        env = gym.make("CartPole-v1")
        with PolicyClient("cart", url=server.endpoint["grpc"], deadline_s=PATIENCE_S) as client:
            episode, step, (observation, _) = 0, 0, env.reset(seed=0)
            while not stop.wait(0.002):
                name = f"episode-{episode}/{step}"
                action = client.act(observation, request_id=name)
                seen[name] = (observation.astype(np.float32), int(action.value), action.release)
                observation, _, ended, cut, _ = env.step(action.value)
                step += 1
                if ended or cut:
                    episode, step, (observation, _) = episode + 1, 0, env.reset()
        env.close()

    thread = threading.Thread(target=play)
    thread.start()
    try:
        wait_for(lambda: seen)
        yield seen
    finally:
        stop.set()
        thread.join()


def _wait_for_steps(seen: dict[str, Any], count: int) -> None:
    """Wait until so many steps more were played."""
    enough = len(seen) + count
    wait_for(lambda: len(seen) >= enough)


def _recorder(server: Embedded, output: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [*COMMAND, "record", "cart", "-o", str(output), "--for", "30m", *more]
    return subprocess.Popen(
        command, env={**os.environ, "POLICYCTL_REPOSITORY": str(server.root)}, stdout=subprocess.DEVNULL
    )


def _tracing(server: Embedded) -> dict[str, tuple[str, ...]]:
    with server.control.triton() as client:
        return client.trace("cart")


def _left(server: Embedded) -> list[Path]:
    control = server.root / ".policyctl"
    return [*(control / "server" / "traces").iterdir(), *control.glob("recording.json")]


@pytest.fixture(scope="module")
def recorded(cart, tmp_path_factory) -> Path:
    """Some traffic of the incumbent."""
    output = tmp_path_factory.mktemp("recorded") / "cart.npz"
    with _playing(cart):
        cart.run("record", "cart", "-o", str(output), "--for", "30m", "--count", "600")
    return output


def test_what_clients_send_is_recorded_with_the_release_that_answered_also_across_a_promotion(cart, tmp_path) -> None:
    """Each observation to six digits, each action, each release; the file is its owner's alone and nothing is left."""
    output = tmp_path / "cart.npz"
    with _playing(cart) as seen:
        recorder = _recorder(cart, output)
        wait_for(lambda: "TENSORS" in _tracing(cart)["trace_level"])
        _wait_for_steps(seen, 200)
        cart.run("promote", "cart", "1.1.0", "--gates", "none")
        _wait_for_steps(seen, 200)
        recorder.send_signal(signal.SIGINT)
        assert recorder.wait(PATIENCE_S) == 0
        cart.run("rollback", "cart")
    found = Recording.from_bytes(output.read_bytes())
    assert set(found.answered_by) == {"1.0.0", "1.1.0"}
    assert found.requests >= 400
    assert set(found.dropped) <= {"asked by policyctl itself"}
    for row, name in enumerate(found.request_ids):
        observation, action, release = seen[name]
        np.testing.assert_allclose(found.observations["observation"][row], observation, rtol=5.1e-6, atol=1e-30)
        assert int(found.outputs["action"][row, 0]) == action
        assert found.origin.releases[int(found.slots[row])] == release
    assert len(found.steps()[0]) > 300
    assert abs(found.time_ns[-1] / 1e9 - time.time()) < PATIENCE_S
    assert output.stat().st_mode & 0o777 == 0o600
    assert _tracing(cart)["trace_level"] == ("OFF",)
    assert _left(cart) == []


def test_a_recorder_that_is_killed_leaves_tracing_off_and_nothing_behind(cart, tmp_path) -> None:
    """The supervisor finds the marker without its owner; a second recorder is refused until then."""
    with _playing(cart):
        recorder = _recorder(cart, tmp_path / "never.npz")
        wait_for(lambda: "TENSORS" in _tracing(cart)["trace_level"])
        second = cart.run("record", "cart", "-o", str(tmp_path / "second.npz"), "--for", "1s", check=False)
        assert second.returncode == 5
        recorder.send_signal(signal.SIGKILL)
        recorder.wait()
        wait_for(lambda: _tracing(cart)["trace_level"] == ("OFF",))
        wait_for(lambda: _left(cart) == [])
    assert not list(tmp_path.iterdir())


def test_ctrl_c_keeps_what_was_recorded(cart, tmp_path) -> None:
    """An early end is an end like another."""
    with _playing(cart) as seen:
        recorder = _recorder(cart, tmp_path / "cart.npz")
        wait_for(lambda: "TENSORS" in _tracing(cart)["trace_level"])
        _wait_for_steps(seen, 20)
        recorder.send_signal(signal.SIGINT)
        assert recorder.wait(PATIENCE_S) == 0
    assert Recording.from_bytes((tmp_path / "cart.npz").read_bytes()).rows > 0
    assert (_tracing(cart)["trace_level"], _left(cart)) == (("OFF",), [])


def test_silence_is_not_a_recording(cart, tmp_path) -> None:
    """Probes of the supervisor are no traffic: there is no file, and the reason is told."""
    done = cart.run("record", "cart", "-o", str(tmp_path / "cart.npz"), "--for", "2s", check=False)
    assert done.returncode == 2
    assert "nothing was recorded" in done.stderr
    assert not list(tmp_path.iterdir())


def _verdicts(server: Embedded, release: str, *more: str) -> dict[str, dict[str, Any]]:
    done = server.run("validate", "cart", release, "--gates", "none", "--json", *more, check=False)
    return {gate["gate"]: gate for gate in json.loads(done.stdout)["gates"]}


PLAY = ("--env", "CartPole-v1", "--episodes", "20", "--margin", "25")


def test_a_biased_release_fails_by_its_behaviour_and_the_incumbent_serves_on(cart, recorded) -> None:
    """It answers its own golden set, and both gates that look at what it does fail it; no client gets its answer."""
    with _playing(cart) as seen:
        gates = _verdicts(cart, "2.0.0", "--recording", str(recorded), *PLAY)
    assert {name: gate["verdict"] for name, gate in gates.items()} == {
        "integrity": "passed",
        "parity": "passed",
        "golden": "passed",
        "replay": "failed",
        "behaviour": "failed",
    }
    assert gates["behaviour"]["evidence"]["difference"]["high"] < -25
    assert {release for _, _, release in seen.values()} == {"1.0.0"}
    assert not (cart.root / "cart.candidate").exists()


def test_a_release_whose_files_act_otherwise_than_its_policy_fails_golden_and_is_not_played(cart, recorded) -> None:
    """What is not certified is not judged further, and does not pass."""
    gates = _verdicts(cart, "3.0.0", "--recording", str(recorded), *PLAY)
    assert {name: gate["verdict"] for name, gate in gates.items()} == {
        "integrity": "passed",
        "parity": "passed",
        "golden": "failed",
        "replay": "inconclusive",
        "behaviour": "inconclusive",
    }
    refused = cart.run("promote", "cart", "3.0.0", "--gates", "none", check=False)
    assert refused.returncode == 7
    assert cart.answered_by() == "1.0.0"


def test_an_equal_release_passes_and_its_evidence_is_kept(cart, recorded) -> None:
    """The same policy under another number: equal returns, equal actions."""
    gates = _verdicts(cart, "1.1.0", "--recording", str(recorded), *PLAY)
    assert {gate["verdict"] for gate in gates.values()} == {"passed"}
    played = gates["behaviour"]["evidence"]
    assert played["returns"]["incumbent"] == played["returns"]["candidate"] and len(played["seeds"]) == 20
    assert (played["incumbent"]["release"], played["candidate"]["release"]) == ("1.0.0", "1.1.0")
    assert gates["replay"]["evidence"]["figures"]["agreement"]["mean"] == 1.0
    kept = {r["gate"] for r in cart.json("history") if r["kind"] == "gate" and r["release"] == "1.1.0"}
    assert {"replay", "behaviour"} <= kept


def test_replay_reports_and_moves_nothing(cart, recorded) -> None:
    """The biased release, beside the one that answered then asked again, which gives the same answers."""
    before = cart.json("history")
    document = cart.json("replay", "cart", "2.0.0", str(recorded))
    assert document["recorded_release_again"]["agreement"]["mean"] == 1.0
    assert document["figures"]["agreement"]["mean"] < 0.9
    assert document["figures"]["pairs"] > 100
    assert Path(document["evidence"]).is_file()
    # The journal names the evidence, and nothing else happened.
    *earlier, kept = cart.json("history")
    assert earlier == before
    assert (kept["kind"], kept["what"], kept["release"]) == ("measured", "shadow", "2.0.0")
    shown = cart.json("card", "show", "cart", "2.0.0")["behaviour"]
    (acted,) = [b for b in shown if b["evidence"]["digest"] == kept["evidence_digest"]]
    assert acted["pairs"] > 100


def test_what_a_release_earned_stands_in_its_card_with_its_evidence(cart) -> None:
    """The served policy plays, the journal names what came of it, and the card shows just that."""
    found = cart.json("evaluate", "cart", "--env", "CartPole-v1", "--episodes", "3", "--keep")
    card = cart.json("card", "show", "cart", "1.0.0")
    (entry,) = card["evaluation"]
    assert (entry["environment"], entry["episodes"], entry["format"]) == ("CartPole-v1", 3, "openvino")
    assert entry["returns"]["mean"] == pytest.approx(found["served"]["mean"]["mean"], rel=1e-5)
    kept = cart.root / ".policyctl" / entry["evidence"]["file"]
    assert (str(kept), digest_of(kept.read_bytes())) == (found["evidence"], entry["evidence"]["digest"])
    assert cart.json("verify")["intact"]
    assert cart.run("card", "show", "cart", "1.0.0", "--format", "md").stdout.startswith("---\n")


def test_an_incumbent_that_does_not_answer_is_an_error_never_a_pass(cart) -> None:
    """Nothing can be compared with what is dead; the supervisor brings it back afterwards."""
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(0.1):
            # The supervisor may start the server again meanwhile.
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError, ServerError):
                for name, use in usage(cart.endpoint["pid"]).items():
                    if name.startswith("cart_"):
                        psutil.Process(use.pid).kill()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        gates = _verdicts(cart, "1.1.0", *PLAY)
    finally:
        stop.set()
        thread.join()
    assert gates["behaviour"]["verdict"] == "error"
    wait_for(lambda: cart.answered_by() == "1.0.0")
