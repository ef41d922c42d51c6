"""One golden question to what is served, and what is wrong with the answer.

An answer alone proves nothing: it is held against the golden set of its release,
row after row, by the tolerance that certification uses. Contract and golden set
of a release are read once, each as published, and remembered by the digest of
its manifest, so what has been asked goes on being asked where its files are
damaged later. The artifacts, which may be large, are not read: what the server
holds in memory was verified when it was loaded.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from policyctl.adapters.repository import Repository
from policyctl.adapters.triton import Triton
from policyctl.domain.artifacts import CONTRACT_FILE, GOLDEN_FILE
from policyctl.domain.contract import Contract
from policyctl.domain.golden import Golden
from policyctl.domain.manifest import FileEntry, difference, digest_of
from policyctl.domain.moves import Placement
from policyctl.domain.names import served_name
from policyctl.domain.parity import compare
from policyctl.domain.probes import AliasKey, ProbeOutcome
from policyctl.domain.state import AliasState, PublishedRelease
from policyctl.domain.verdict import Verdict
from policyctl.errors import IntegrityError, PolicyctlError, ServerError
from policyctl.gates import golden as golden_gate
from policyctl.integrity import read_file, read_manifest
from policyctl.services.control import Control, OpenRelease, asker


@dataclass(frozen=True, slots=True)
class Question:
    """The golden set of one release, to be asked row by row."""

    release: str
    contract: Contract
    golden: Golden

    def row(self, number: int) -> Golden:
        """One observation and its golden answer; after the last row comes the first."""
        at, whole = number % self.golden.rows, self.golden
        return Golden(_row(whole.observations, at), _row(whole.outputs, at), whole.tolerance)


@dataclass(frozen=True, slots=True)
class GoldenAnswer:
    """One golden question that was asked.

    Attributes:
        slot: Who answered; None where nobody did.
        took_us: From question to answer, as this process saw it.
        words: What is wrong with the answer, or why there was none; empty for the golden one.
        asked: False where nothing could be asked: the release cannot be read.
    """

    slot: int | None
    took_us: float
    words: str
    asked: bool = True

    @property
    def outcome(self) -> ProbeOutcome:
        """What became of it, whichever slot answered."""
        if self.slot is None:
            return ProbeOutcome.FAILED
        return ProbeOutcome.WRONG if self.words else ProbeOutcome.ANSWERED


def ask_golden(client: Triton, served: str, question: Question, number: int) -> GoldenAnswer:
    """Ask the Triton model `served` one row of a golden set, alone; after the last row comes the first."""
    row = question.row(number)
    began = time.perf_counter_ns()
    try:
        answer = client.infer(served, row.observations, tuple(spec.name for spec in question.contract.outputs))
    except ServerError as error:
        return GoldenAnswer(None, 0.0, error.problem)
    took_us = (time.perf_counter_ns() - began) / 1e3
    return GoldenAnswer(answer.slot, took_us, _disagreement(question, row, answer.outputs))


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
            IntegrityError: Its contract or its golden set is not as published.
        """
        if (known := self.known(placement)) is not None:
            return known
        repository = self.control.repository
        question = read_question(repository, repository.journal.state().release(model, placement.release))
        return self._known.setdefault(placement.manifest_digest, question)

    def ask(self, client: Triton, key: AliasKey, placement: Placement, number: int = 0) -> GoldenAnswer:
        """Ask an alias one row of its golden set; one that cannot be read says nothing of what the server holds."""
        try:
            question = self.of(key[0], placement)
        except PolicyctlError as error:
            return GoldenAnswer(None, 0.0, error.problem, asked=False)
        return ask_golden(client, served_name(*key), question, number)


def read_question(repository: Repository, published: PublishedRelease) -> Question:
    """Contract and golden set of a release, each as published.

    Raises:
        IntegrityError: One of them is not.
    """
    folder = repository.slot(published.model, published.slot)
    manifest, _ = read_manifest(folder, published.manifest_digest)
    listed = {entry.path: entry for entry in manifest.files}
    contents = {name: read_file(folder / name) for name in (CONTRACT_FILE, GOLDEN_FILE)}
    for name, content in contents.items():
        if problem := difference(name, listed.get(name), FileEntry(name, len(content), digest_of(content))):
            raise IntegrityError(f"{folder}: {problem}", remedy="See: policyctl verify")
    contract = Contract.from_json(json.loads(contents[CONTRACT_FILE]))
    return Question(published.release, contract, Golden.from_bytes(contents[GOLDEN_FILE], contract))


@dataclass(frozen=True, slots=True)
class Probed:
    """What one alias answered.

    Attributes:
        release: What should answer.
        verdict: Passed, failed (another slot, or another action), or error (no answer).
    """

    model: str
    alias: str
    served: str
    release: str
    verdict: Verdict
    detail: str
    duration_ms: float


def probe(control: Control, *, model: str | None = None, alias: str | None = None) -> tuple[Probed, ...]:
    """Ask each alias for its first golden observation, in the golden set's tolerance.

    Args:
        alias: Only this alias, of that model or of each.

    Returns:
        One for each alias; none where nothing is named yet and nothing was asked for.

    Raises:
        UsageError: No such model, or no alias of that name.
        ServerError: No server answers.
        IntegrityError: The journal was tampered with.
    """
    state = control.repository.journal.state()
    if model is not None:
        state.require(model)
        if alias is not None:
            state.named(model, alias)
    asked = {
        key: named
        for key, named in sorted(state.aliases.items())
        if model in {None, key[0]} and alias in {None, key[1]}
    }
    with control.triton() as client:
        questions = Questions(control)
        return tuple(_ask(questions, client, key, named) for key, named in asked.items())


def _ask(questions: Questions, client: Triton, key: tuple[str, str], named: AliasState) -> Probed:
    served, placement = served_name(*key), named.placement
    began = time.monotonic()
    try:
        question = questions.of(key[0], placement)
        ask = asker(client, served)
        result = golden_gate.run(question.contract, question.row(0), ask, slot=placement.slot, max_batch_size=1)
        verdict, detail = result.verdict, result.reason
    except PolicyctlError as error:
        verdict, detail = Verdict.ERROR, error.problem
    taken_ms = round((time.monotonic() - began) * 1e3, 3)
    return Probed(*key, served, placement.release, verdict, detail, taken_ms)


def _disagreement(question: Question, golden: Golden, outputs: Mapping[str, NDArray[Any]]) -> str:
    """What is wrong with an answer, held against the golden one by the release's tolerance; empty if nothing is."""
    try:
        found = compare(question.contract, golden.outputs, outputs, golden.tolerance).worst
    except ValueError as error:
        return str(error)  # not even of the right shape
    if found.agrees:
        return ""
    return (
        f"output {found.name} of {question.release} differs by {found.max_abs:.3g} from the golden answer,"
        f" {found.excess:.3g} times what is allowed"
    )


def _row(arrays: Mapping[str, NDArray[Any]], at: int) -> dict[str, NDArray[Any]]:
    return {name: array[at : at + 1] for name, array in arrays.items()}
