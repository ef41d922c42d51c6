"""Probe: one golden inference of each alias, for scripts that must know whether it answers correctly.

A container's health check, a load balancer's and a script's question are the
same: does this alias give the action that its release was published with?
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from policyctl.adapters.triton import Triton
from policyctl.domain.names import served_name
from policyctl.domain.state import AliasState
from policyctl.domain.verdict import Verdict
from policyctl.errors import PolicyctlError
from policyctl.gates import golden as golden_gate
from policyctl.services.control import Control, asker
from policyctl.services.moves.golden_question import Questions


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
