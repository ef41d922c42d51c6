"""State and noise of TorchScript that only some observation shows are found without that observation."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from policyctl.errors import UnsupportedError, UsageError
from policyctl_exporters.conduct import checked


@torch.jit.script
class Count:
    def __init__(self) -> None:
        self.n = 0

    def more(self) -> None:
        self.n += 1


class Net(nn.Module):
    """A buffer, a list of tensors and an object; what is rare happens above 5000."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 2)
        self.register_buffer("h", torch.zeros(2, 2))
        self.history = [torch.zeros(2)]
        self.count = Count()

    def rare(self, x: Tensor) -> bool:
        return bool((x > 5000).any())

    def state(self) -> Tensor:
        return self.h


class ByAMethod(Net):
    def forward(self, x: Tensor) -> Tensor:
        if self.rare(x):
            self.state().add_(1.0)
        return self.net(x) + self.h[0]


class ByAView(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.h
        while self.rare(x):
            h = h.t()
            h.unbind(0)[0].add_(1.0)
        return self.net(x) + self.h[0]


class ByAList(Net):
    def forward(self, x: Tensor) -> Tensor:
        parts = [x]
        parts.append(self.h)
        if self.rare(x):
            parts[1].mul_(2.0)
        return self.net(x) + self.h[0]


class InAList(Net):
    def forward(self, x: Tensor) -> Tensor:
        if self.rare(x):
            for old in self.history:
                old.add_(1.0)
        return self.net(x) + self.history[0]


class InAnObject(Net):
    def forward(self, x: Tensor) -> Tensor:
        if self.rare(x):
            self.count.more()
        return self.net(x) + float(self.count.n)


class ByAChoice(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.h if self.rare(x) else self.h.clone()
        torch.add(h, 1.0, out=h)
        return self.net(x) + self.h[0]


class Noisy(Net):
    def forward(self, x: Tensor) -> Tensor:
        noisy = False
        if self.rare(x):
            noisy = True
        y = self.net(x)
        if noisy:
            y = y + 1e-4 * torch.randn(2)
        return y


class DropsOut(Net):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.net(x), 0.5) if self.rare(x) else self.net(x)


class LearnsInTraining(Net):
    """As running statistics do, in evaluation mode nothing is written."""

    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.3))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.h.add_(1.0)
        return self.net(self.more(x)) + self.h[0]


class MayDraw(Net):
    """Draws where its caller or a flag says so, and neither does."""

    def __init__(self) -> None:
        super().__init__()
        self.noisy = False

    def forward(self, x: Tensor, deterministic: bool = True) -> Tensor:
        y = self.net(x)
        if self.noisy or not deterministic:
            return torch.normal(y, torch.ones_like(y))
        return torch.relu(nn.functional.dropout(y, 0.5, self.training)) + nn.functional.relu(self.h[0])


class WritesToItsOwn(Net):
    """Writes to results, to lists and to objects that end with the call."""

    def forward(self, x: Tensor) -> Tensor:
        if self.rare(x):
            x = x.clone().clamp_(-1.0, 1.0)
        parts = [self.net(x), self.h[0].clone()]
        own = Count()
        for part in parts:
            part.add_(1.0)
            own.more()
        return parts[0] + float(own.n)


def _check(kind: Any) -> Any:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(kind()), buffer)
    return checked(buffer.getvalue(), name="policy.pt", trusted=False)


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (ByAMethod, "keeps state between calls: a call changes h$"),
        (ByAView, "keeps state between calls: a call changes h$"),
        (ByAList, "keeps state between calls: a call changes h$"),
        (InAList, "keeps state between calls: a call changes history$"),
        (InAnObject, r"keeps state between calls: a call changes count\.n$"),
        (ByAChoice, "keeps state between calls: a call changes h$"),
        (Noisy, "draws random numbers for some observations: aten::randn$"),
        (DropsOut, "draws random numbers for some observations: aten::dropout$"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_happens_for_a_rare_observation_alone_is_refused(kind: Any, problem: str) -> None:
    """Nothing is asked: the program is followed through calls, views, containers and objects."""
    with pytest.raises(UnsupportedError, match=problem):
        _check(kind)


@pytest.mark.parametrize("kind", [LearnsInTraining, MayDraw, WritesToItsOwn], ids=lambda kind: kind.__name__)
def test_what_no_observation_sets_off_is_neither_state_nor_noise(kind: Any) -> None:
    """Conditions on flags and arguments are known, and evaluation mode is what is served."""
    assert _check(kind).module.eval()(torch.zeros(1, 4)).shape == (1, 2)


def test_calls_that_double_forty_times_are_refused_before_anything_writes_them_out() -> None:
    """Each function calls the one below twice: a trillion operators in a file of a few kilobytes."""
    program: Any = torch.jit.script(nn.Identity())
    for level in range(40):
        below = f"self.f{level - 1}" if level else "self.forward"
        program.define(f"def f{level}(self, x):\n    return {below}({below}(x))\n")
    with pytest.raises(UsageError, match=r"policy\.pt has \d+ operators where every call is written out"):
        checked(program.save_to_buffer(), name="policy.pt", trusted=False)
