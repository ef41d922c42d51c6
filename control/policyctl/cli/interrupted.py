"""What a command says after Ctrl-C: what is served now, and who carries on what had begun."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from policyctl.domain.names import served_name
from policyctl.errors import PolicyctlError

if TYPE_CHECKING:
    from policyctl.domain.state import State
    from policyctl.services.control import Control


def words(control: Control | None, typed: Sequence[str]) -> str:
    """What to say, in lines.

    Args:
        typed: The command line. Where it names models, the rest is left out.
    """
    state = None
    try:
        if control is not None and control.repository.journal.path.exists():
            state = control.repository.journal.state()
    except PolicyctlError as error:
        return f"Interrupted. What is served is unknown: {error.problem}.\n"
    return "".join(f"{line}\n" for line in ("Interrupted.", *_standing(state, typed)))


def _standing(state: State | None, typed: Sequence[str]) -> list[str]:
    if state is None:
        return []
    models = {model for model, _ in state.releases} | {model for model, _ in state.aliases}
    named_models = models.intersection(typed) or models
    found = []
    for _, unfinished in sorted(state.unfinished.items()):
        found.append(
            f"The {unfinished.move.words} is not over: the running server finishes or reverts it within seconds,"
            " and so does the next promote or rollback."
        )
    for (model, alias), opened in sorted(state.bakes.items()):
        found.append(f"The server goes on watching {alias} of {model} ({opened.move.words}).")
    for (model, alias), named in sorted(state.aliases.items()):
        if model in named_models and named.drain_s is not None:
            found.append(f"{served_name(model, alias)} answers its episodes on; policyctl serve ends that.")
        elif model in named_models:
            found.append(f"{alias} of {model} is {named.placement.release}.")
    if any(model in named_models for model in models) and not state.aliases:
        found.append("No alias names a release.")
    return [*found, "What answers: policyctl status"]
