"""An export of a policy that never answers ends, in words, whatever the policy is made of."""

from __future__ import annotations

import importlib
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from policyctl.errors import UnsupportedError, UsageError
from policyctl_exporters import export_policy
from policyctl_exporters.steps import Steps, unfinished

BOX = spaces.Box(-1.0, 1.0, (4,), np.float32)
PATIENCE_S = 240


class LoopsOnTensors(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        while bool(x.sum() < 1e9):
            x = x * 1.0
        return x[:, :2]


class LoopsOnNumbers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        n = 0
        while n >= 0:
            n = (n + 1) % 7
        return x[:, :2]


WOKEN = threading.Event()


class Sleeps(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        WOKEN.wait(2 * PATIENCE_S)
        return x[:, :2]


class LoopsInPython(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        while True:
            pass


@pytest.fixture(params=[LoopsOnTensors, LoopsOnNumbers], ids=["tensors", "numbers"])
def endless(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A TorchScript file whose loop runs in C++."""
    path = tmp_path / "endless.pt"
    torch.jit.save(torch.jit.script(request.param()), str(path))
    return path


def _command(path: Path, *options: str) -> list[str]:
    arguments = ["export", str(path), "--env", "CartPole-v1", "-o", str(path.parent / "out"), *options]
    return [sys.executable, "-m", "policyctl", *arguments]


def test_the_command_ends_at_the_limit_with_words(endless: Path) -> None:
    """Exit code 8, what took too long, how to give it more time, and no folder."""
    done = subprocess.run(
        _command(endless, "--step-limit", "1"), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 8, done.stderr
    assert "could not read the policy within 1 s" in done.stderr
    assert "--step-limit" in done.stderr
    assert [entry.name for entry in endless.parent.iterdir()] == ["endless.pt"]


LOOPING = """
import sys
import torch

class Loops(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.program = torch.jit.load("endless.pt")

    def forward(self, x):
        print("looping", file=sys.stderr, flush=True)
        return self.program(x)
"""


@pytest.mark.parametrize("endless", [LoopsOnNumbers], indirect=True, ids=["numbers"])
def test_ctrl_c_ends_the_command_at_once(endless: Path) -> None:
    """Also while the policy loops in C++, where no signal reaches it."""
    (endless.parent / "looping_policy.py").write_text(LOOPING)
    command = [sys.executable, "-m", "policyctl", "export", "looping_policy:Loops", "--env", "CartPole-v1", "-o", "out"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=endless.parent)
    assert process.stderr is not None
    assert any("looping" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 130
    assert "Interrupted" in process.stderr.read()
    assert not (endless.parent / "out").exists()


def test_a_program_that_exports_goes_on_and_ends_well(tmp_path: Path) -> None:
    """The error can be caught, and the loop is stopped where its next operator runs."""
    path = tmp_path / "endless.pt"
    torch.jit.save(torch.jit.script(LoopsOnTensors()), str(path))
    program = f"""
import numpy as np
from gymnasium import spaces
from policyctl.errors import PolicyctlError
from policyctl_exporters import export_policy
from policyctl_exporters.steps import unfinished
box = spaces.Box(-1.0, 1.0, (4,), np.float32)
try:
    export_policy({str(path)!r}, {str(tmp_path / "out")!r}, observation_space=box, action_space=box, step_limit_s=0.5)
except PolicyctlError as error:
    print("refused", unfinished())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (done.stdout, done.returncode) == ("refused False\n", 0), done.stderr


@pytest.mark.parametrize("module", [Sleeps(), LoopsInPython()], ids=["sleeps", "loops"])
def test_a_module_that_waits_or_loops_is_refused(module: nn.Module, tmp_path: Path) -> None:
    """From a training script too: a refusal, and the script goes on."""
    begin = time.monotonic()
    with pytest.raises(UnsupportedError, match=r"could not read the policy within 0\.5 s"):
        export_policy(module, tmp_path / "out", observation_space=BOX, action_space=BOX, step_limit_s=0.5)
    assert time.monotonic() - begin < PATIENCE_S
    assert list(tmp_path.iterdir()) == []
    # A command that ends while a step still runs ends its process at once, and later tests run commands in this one.
    WOKEN.set()
    until = time.monotonic() + PATIENCE_S
    while unfinished() and time.monotonic() < until:
        time.sleep(0.01)
    assert not unfinished()


def test_an_import_is_never_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its modules would stay half-made and fail the next export of the same program."""
    (tmp_path / "slow_to_import.py").write_text(
        "import time\nfor _ in range(100):\n    time.sleep(0.01)\nwhole = True\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    steps = Steps(None, limit_s=0.1)

    def work() -> None:
        with steps.step("name", "import it"):
            importlib.import_module("slow_to_import")
            while True:
                pass

    with pytest.raises(UnsupportedError, match="could not import it within"):
        steps.run(work)
    assert sys.modules.pop("slow_to_import").whole
    assert not unfinished()


def test_a_limit_that_is_no_time_is_refused(tmp_path: Path) -> None:
    """Zero seconds would refuse every policy."""
    with pytest.raises(UsageError, match="limit of a step is 0"):
        export_policy(nn.Linear(4, 2), tmp_path / "out", observation_space=BOX, action_space=BOX, step_limit_s=0)


def test_what_a_step_raises_reaches_the_caller_as_it_is() -> None:
    """The thread in between changes neither results nor errors."""
    steps = Steps(None)
    assert steps.run(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError), steps.step("name", "words"):
        steps.run(lambda: 1 // 0)
    assert steps.seconds == {}
