"""A recording: observations from live traffic, what was answered, and which release answered.

It holds what clients sent, so it is as sensitive as they are. Rows are single
observations in the order in which the server took their requests; a request
with a batch gives several rows.

Triton traces numbers as text of six significant digits, so floating-point
values are rounded to a relative 5e-6; a comparison must allow for it
(`DIGITS`). Integers are exact.

Law: ``Recording.from_bytes(r.to_bytes()) == r`` array by array.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.contract import Contract
from policyctl.domain.json_values import from_json, to_json
from policyctl.domain.npz import pack, unpack
from policyctl.domain.protocol import is_control_request
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import UsageError

SCHEMA: Final = 1
LARGEST_BYTES: Final = 1 << 30
"""Most of a recording's file."""
UNPACKED_BYTES: Final = 4 << 30
"""Most of its arrays together."""
DIGITS: Final = 6
"""Significant digits of a floating-point value."""

OBSERVATION: Final = "observation/"
"""What an input's name has in front of it in the file."""

_OUTPUT, _ABOUT = "output/", "about"
_STEP = re.compile(r"(.+)/(\d{1,18})")

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Traced:
    """One request as the server traced it.

    Attributes:
        served: The Triton model that was asked.
        slot: Which version of it answered.
        request_id: What the client called it; may be empty.
        start_ns: When it came, on the server's steady clock.
        inputs: By name, each with its batch dimension.
        outputs: Those that the client asked for; none if it was refused.
    """

    served: str
    slot: int
    request_id: str
    start_ns: int
    inputs: Arrays
    outputs: Arrays


@dataclass(frozen=True, slots=True)
class RecordingOrigin:
    """Where a recording comes from.

    Attributes:
        model: Whose traffic it is.
        alias: Which alias was asked.
        releases: Slot to release, of every slot that answered.
        rate: One of how many requests was recorded.
        one_stream: The person who recorded says that one control loop sent all of it.
        started: UTC, ISO 8601.
        seconds: How long was recorded.
    """

    model: str
    alias: str
    releases: Mapping[int, str]
    rate: int
    one_stream: bool
    started: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Recording:
    """What was asked and answered.

    Attributes:
        origin: Where it comes from.
        observations: By input name, each of shape (n, *spec.shape).
        outputs: By output name, each of shape (n, *spec.shape): those that
            every recorded request asked for. Without `action` where clients
            draw their actions themselves.
        request: Of each row, the index of its request, shape (n,), rising.
        slots: Of each request, shape (m,).
        time_ns: Of each request, nanoseconds since 1970, shape (m,), rising.
        request_ids: Of each request.
        dropped: How many traced requests are not in it, by reason.
    """

    origin: RecordingOrigin
    observations: Arrays
    outputs: Arrays
    request: NDArray[np.int64]
    slots: NDArray[np.int64]
    time_ns: NDArray[np.int64]
    request_ids: tuple[str, ...]
    dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many observations."""
        return len(self.request)

    @property
    def requests(self) -> int:
        """How many requests."""
        return len(self.slots)

    @property
    def answered_by(self) -> dict[str, int]:
        """Requests by release."""
        return dict(Counter(self.origin.releases[int(slot)] for slot in self.slots))

    def steps(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs of rows of which the second came one control step after the first.

        The order is known where request ids say it (``NAME/NUMBER``: one more
        is the next step of the same loop), or where `RecordingOrigin.one_stream` does
        and every request was recorded.

        Returns:
            Row indices before and after, each of shape (k,).
        """
        first = np.searchsorted(self.request, np.arange(self.requests))
        count = np.bincount(self.request, minlength=self.requests)
        before: list[int] = []
        after: list[int] = []
        for one, other in sorted(self._following()):
            if count[one] == count[other]:
                before += range(first[one], first[one] + count[one])
                after += range(first[other], first[other] + count[other])
        return np.array(before, dtype=np.int64), np.array(after, dtype=np.int64)

    def _following(self) -> list[tuple[int, int]]:
        if self.origin.one_stream:
            return [(i, i + 1) for i in range(self.requests - 1)] if self.origin.rate == 1 else []
        last: dict[str, tuple[int, int]] = {}
        found = []
        for index, name in enumerate(self.request_ids):
            if match := _STEP.fullmatch(name):
                loop, step = match[1], int(match[2])
                if loop in last and last[loop][0] + 1 == step:
                    found.append((last[loop][1], index))
                last[loop] = (step, index)
        return found

    def to_bytes(self) -> bytes:
        """The file's content; the same recording gives the same bytes."""
        about = {
            "schema": SCHEMA,
            **to_json(self.origin),
            "request_ids": list(self.request_ids),
            "dropped": dict(self.dropped),
        }
        return pack(
            {
                **{OBSERVATION + name: array for name, array in self.observations.items()},
                **{_OUTPUT + name: array for name, array in self.outputs.items()},
                "request": self.request,
                "slots": self.slots,
                "time_ns": self.time_ns,
                _ABOUT: np.frombuffer(json.dumps(about, sort_keys=True).encode(), dtype=np.uint8),
            }
        )

    @classmethod
    def from_bytes(cls, content: bytes) -> Recording:
        """Read what `to_bytes` wrote.

        Raises:
            UsageError: Not a recording, or one that contradicts itself.
        """
        arrays = unpack(content, what="recording", most_bytes=UNPACKED_BYTES)
        try:
            about = json.loads(arrays.pop(_ABOUT).tobytes())
            if about["schema"] != SCHEMA:
                raise UsageError(f"recording: schema {about['schema']!r}, this version reads {SCHEMA}")
            recording = cls(
                origin=from_json(RecordingOrigin, about, what="recording", unknown_keys=True),
                observations=_under(arrays, OBSERVATION),
                outputs=_under(arrays, _OUTPUT),
                request=arrays["request"],
                slots=arrays["slots"],
                time_ns=arrays["time_ns"],
                request_ids=from_json(tuple[str, ...], about["request_ids"], what="recording: request_ids"),
                dropped=from_json(dict[str, int], about["dropped"], what="recording: dropped"),
            )
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UsageError(f"recording: cannot be read ({type(error).__name__}: {error})") from error
        recording.check()
        return recording

    def check(self) -> None:
        """Refuse a recording that contradicts itself.

        Raises:
            UsageError: Lengths differ, or a slot has no release.
        """
        index = (self.request, self.slots, self.time_ns)
        if any(a.ndim != 1 or a.dtype != np.int64 for a in index):
            raise UsageError("recording: its indices are not lists of integers")
        lengths = {len(a) if a.ndim else -1 for a in (*self.observations.values(), *self.outputs.values())}
        if not self.observations or lengths != {self.rows}:
            raise UsageError("recording: its arrays differ in length")
        if not (self.requests == len(self.time_ns) == len(self.request_ids)) or not np.array_equal(
            np.unique(self.request), np.arange(self.requests)
        ):
            raise UsageError("recording: its rows and its requests do not fit")
        if np.any(np.diff(self.request) < 0):
            raise UsageError("recording: its rows are not in the order of their requests")
        if unknown := sorted(set(self.slots.tolist()) - set(self.origin.releases)):
            raise UsageError(f"recording: no release is named for slot {unknown[0]}")

    def require_fit(self, contract: Contract) -> None:
        """Refuse a recording that cannot be asked of a release with `contract`.

        Raises:
            UsageError: An input is missing, or has another shape or dtype.
        """
        for spec in contract.observations:
            array = self.observations.get(spec.name)
            if array is None or not _fits(spec, array):
                seen = "nothing" if array is None else f"{array.dtype}{array.shape[1:]}"
                raise UsageError(
                    f"the recording has {seen} for {spec.name}, the release takes {spec.dtype}{spec.shape}",
                    remedy="Record traffic of a release with the same contract.",
                )


def build(
    contract: Contract, traced: Sequence[Traced], origin: RecordingOrigin, *, clock_offset_ns: int, unread: int = 0
) -> Recording:
    """Make a recording of what the server traced.

    Requests of the control plane, refused ones, those of another contract, and
    (where any request has an action) those without one, are counted and left out.

    Args:
        contract: Of the release that serves.
        traced: In any order.
        origin: Its `releases` may name more slots than answered.
        clock_offset_ns: What turns the server's steady clock into nanoseconds since 1970.
        unread: How many requests were traced and could not be read.
    """
    dropped: Counter[str] = Counter({"not readable": unread})
    kept: list[Traced] = []
    for each in sorted(traced, key=lambda t: t.start_ns):
        if why := _unfit(contract, each, origin.releases):
            dropped[why] += 1
        else:
            kept.append(each)
    action = contract.action.name
    if any(action in each.outputs for each in kept):
        dropped["without action"] += sum(action not in each.outputs for each in kept)
        kept = [each for each in kept if action in each.outputs]
    names = [s for s in contract.outputs if all(s.name in each.outputs for each in kept)]
    counts = [len(each.inputs[contract.observations[0].name]) for each in kept]
    slots = np.array([each.slot for each in kept], dtype=np.int64)
    return Recording(
        origin=replace(origin, releases={slot: origin.releases[slot] for slot in sorted(set(slots.tolist()))}),
        observations={s.name: _joined(s, [each.inputs[s.name] for each in kept]) for s in contract.observations},
        outputs={s.name: _joined(s, [each.outputs[s.name] for each in kept]) for s in names},
        request=np.repeat(np.arange(len(kept), dtype=np.int64), counts),
        slots=slots,
        time_ns=np.array([each.start_ns + clock_offset_ns for each in kept], dtype=np.int64),
        request_ids=tuple(each.request_id for each in kept),
        dropped={why: n for why, n in sorted(dropped.items()) if n},
    )


def _unfit(contract: Contract, each: Traced, releases: Mapping[int, str]) -> str:
    """Why a request is left out; empty where it is not."""
    if is_control_request(each.request_id):
        return "asked by policyctl itself"
    if not each.outputs:
        return "not answered"
    if each.slot not in releases:
        return "slot of no release"
    rows = {len(a) for a in (*each.inputs.values(), *each.outputs.values())}
    known = {s.name: s for s in contract.outputs}
    whole = set(each.inputs) == {s.name for s in contract.observations} and set(each.outputs) <= set(known)
    if not whole or len(rows) != 1:
        return "another contract"
    fit = all(_fits(s, each.inputs[s.name]) for s in contract.observations)
    return "" if fit and all(_fits(known[name], a) for name, a in each.outputs.items()) else "another contract"


def _fits(spec: TensorSpec, array: NDArray[Any]) -> bool:
    return array.shape[1:] == spec.shape and array.dtype == np.dtype(spec.dtype)


def _joined(spec: TensorSpec, arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(arrays) if arrays else np.zeros((0, *spec.shape), dtype=spec.dtype)


def _under(arrays: Arrays, prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
