"""One golden question to what is served, and what is wrong with the answer.

An answer alone proves nothing: it is held against the golden set of its release,
row after row, by the tolerance that certification uses. What to ask a release is
read whole and verified once, and remembered by the digest of its manifest, so
what has been asked goes on being asked where its files are damaged later: what
the server holds in memory was verified when it was loaded.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from policyctl.adapters.triton import Answer, Triton
from policyctl.domain.contract import Contract
from policyctl.domain.golden import Golden
from policyctl.domain.moves import Placement
from policyctl.domain.parity import compare
from policyctl.domain.probes import ProbeOutcome
from policyctl.errors import PolicyctlError, ServerError
from policyctl.services.control import Control, OpenRelease, open_release


@dataclass(frozen=True, slots=True)
class Question:
    """The golden set of one release, to be asked row by row."""

    release: str
    contract: Contract
    golden: Golden

    def row(self, number: int) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
        """One observation and its golden answer; after the last row comes the first."""
        at = number % self.golden.rows
        return _rows(self.golden.observations, at), _rows(self.golden.outputs, at)

    @property
    def outputs(self) -> tuple[str, ...]:
        """What to ask for: all that certification compares."""
        return tuple(spec.name for spec in self.contract.outputs)


def disagreement(question: Question, golden: Mapping[str, NDArray[Any]], answer: Answer) -> str:
    """What is wrong with an answer, held against the golden one by the release's tolerance; empty if nothing is."""
    try:
        found = compare(question.contract, golden, answer.outputs, question.golden.tolerance).worst
    except ValueError as error:
        return str(error)  # not even of the right shape
    if found.agrees:
        return ""
    return (
        f"output {found.name} of {question.release} differs by {found.max_abs:.3g} from the golden answer,"
        f" {found.excess:.3g} times what is allowed"
    )


@dataclass(frozen=True, slots=True)
class GoldenAnswer:
    """One golden question that was asked.

    Attributes:
        outcome: What became of it; None where the server does not even say that it lives.
        slot: Who answered; None where nobody did.
        took_us: From question to answer, as this process saw it.
        words: Why there was no answer.
    """

    outcome: ProbeOutcome | None
    slot: int | None
    took_us: float
    words: str = ""


def ask_golden(client: Triton, served: str, question: Question, number: int) -> GoldenAnswer:
    """Ask one row of a golden set, alone.

    Args:
        client: The server.
        served: The Triton model.
        question: Whose golden set.
        number: Which row; it starts over at the end.
    """
    observation, golden = question.row(number)
    began = time.perf_counter_ns()
    try:
        answer = client.infer(served, observation, question.outputs)
    except ServerError as error:
        return GoldenAnswer(ProbeOutcome.FAILED if client.is_live() else None, None, 0.0, error.problem)
    took_us = (time.perf_counter_ns() - began) / 1e3
    wrong = disagreement(question, golden, answer)
    return GoldenAnswer(ProbeOutcome.WRONG if wrong else ProbeOutcome.ANSWERED, answer.slot, took_us)


@dataclass(slots=True)
class Questions:
    """What to ask each release, read once."""

    control: Control
    _known: dict[str, Question] = field(default_factory=dict)

    def known(self, placement: Placement) -> Question | None:
        """What to ask a release that was read before; None for another."""
        return self._known.get(placement.manifest_digest)

    def remember(self, opened: OpenRelease) -> Question:
        """What to ask a release that has just been read."""
        question = Question(opened.published.release, opened.contract, opened.golden)
        return self._known.setdefault(opened.published.manifest_digest, question)

    def of(self, model: str, placement: Placement) -> Question:
        """What to ask a release.

        Raises:
            UsageError: It is not published (any more).
            IntegrityError: It is not intact on disk.
        """
        if (known := self.known(placement)) is not None:
            return known
        repository = self.control.repository
        return self.remember(open_release(repository, repository.journal.state().release(model, placement.release)))

    def find(self, model: str, placement: Placement) -> Question | None:
        """The same; None where it cannot be read, which says nothing of what the server holds."""
        with contextlib.suppress(PolicyctlError):
            return self.of(model, placement)
        return None


def _rows(arrays: Mapping[str, NDArray[Any]], at: int) -> dict[str, NDArray[Any]]:
    return {name: array[at : at + 1] for name, array in arrays.items()}
