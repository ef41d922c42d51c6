"""The calls that a question takes, and their replies, as plain values; the wires carry them."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from numpy.typing import NDArray

from policyctl.client.served import ModelConfig
from policyctl.domain.tensor import TensorSpec

RELEASE: Final = "release"
GENERATION: Final = "generation"
QUEUE_US, COMPUTE_US = TIMING = ("queue_us", "compute_us")


@dataclass(frozen=True, slots=True)
class FetchConfig:
    """Read the model's configuration, of one slot or of what is served; of another model than the client's
    where `model` names one."""

    slot: int | None = None
    model: str = ""


@dataclass(frozen=True, slots=True)
class FetchCounters:
    """Read the model's statistics for one slot."""

    slot: int
    model: str = ""


@dataclass(slots=True)  # not frozen, which takes four times as long to make
class Infer:
    """Ask for outputs by name; `inputs` have their batch dimension.

    Attributes:
        inputs: By name.
        outputs: Names.
        request_id: What the server calls it.
        specs: What the contract says of each output, in the order of `outputs`.
        traceparent: The trace that it belongs to; empty for none.
        timing: Whether the answer's parameters `TIMING` are read as well.
        model: Ask this Triton model instead of the client's.
    """

    inputs: Mapping[str, NDArray[Any]]
    outputs: tuple[str, ...]
    request_id: str
    specs: tuple[TensorSpec, ...] = ()
    traceparent: str = ""
    timing: bool = False
    model: str = ""


@dataclass(slots=True)
class Answer:
    """What came back from `Infer`; of its parameters those that somebody reads: `RELEASE`, `GENERATION`, and `TIMING`
    if asked."""

    slot: int
    request_id: str
    outputs: Mapping[str, NDArray[Any]]
    parameters: Mapping[str, Any]
    round_trip_us: float


@dataclass(frozen=True, slots=True)
class Counters:
    """Triton's cumulative statistics of successful requests to one slot."""

    requests: int = 0
    queue_ns: int = 0
    compute_ns: int = 0


Call = FetchConfig | FetchCounters | Infer
Reply = ModelConfig | Counters | Answer


class Task(Protocol):
    """Work that goes on by itself, in a thread or in a loop."""

    def done(self) -> bool:
        """Whether it has ended."""


@dataclass(slots=True)
class Begin:
    """Carry out further steps while the caller goes on; the reply is their `Task`.

    Attributes:
        steps: What is carried out.
        more_s: How much more time they have than one question.
    """

    steps: Generator[Any, Any, Any]
    more_s: float


@dataclass(slots=True)
class Wait:
    """Wait for a task within the deadline; the reply is what its steps return."""

    task: Task


Step = Call | Begin | Wait
"""What a client performs: calls go over the wire, the others do not."""
