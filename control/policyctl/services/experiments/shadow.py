"""Shadow evaluation: a loaded candidate acts on what was recorded, or plays against the incumbent.

`policyctl.measuring` measures (`shadow`, `episodes`), `gates` judges
(`replay`, `behaviour`), and here the candidate is asked. No alias moves, and no
client gets an answer from the candidate.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.actions import Behaviour, describe
from policyctl.domain.artifacts import Format
from policyctl.domain.contract import Contract
from policyctl.domain.criterion import Criterion
from policyctl.domain.intervals import mean_with_interval
from policyctl.domain.json_values import to_json
from policyctl.domain.manifest import digest_of
from policyctl.domain.names import check_alias
from policyctl.domain.recording import LARGEST_BYTES, Recording
from policyctl.domain.verdict import GateResult, Verdict
from policyctl.errors import PolicyctlError, UsageError
from policyctl.gates import behaviour as behaviour_gate
from policyctl.gates import replay as replay_gate
from policyctl.measuring.environments import Environment
from policyctl.measuring.shadow import Shadow, shadow, wanted_outputs
from policyctl.plain_files import read_plain, unreadable
from policyctl.services.control import Control, open_release, select_release
from policyctl.services.evidence import record_measured
from policyctl.services.measure.performance import whole
from policyctl.services.measure.player import Player
from policyctl.services.moves.candidate import Candidate, Check, ServedSlot, loaded
from policyctl.services.moves.recovery import recover
from policyctl.services.moves.validate import place
from policyctl.services.releases.export import missing
from policyctl.settings import BehaviourSettings, ReplaySettings


@dataclass(frozen=True, slots=True)
class Replayed:
    """A candidate on a recording.

    Attributes:
        figures: What the candidate did, compared with what was done.
        again: The same of the release that answered then, if it still serves:
            what rounding alone does.
        evidence: Where all of it is kept; empty where a gate keeps it.
    """

    model: str
    release: str
    recording: Recording
    digest: str
    figures: Shadow
    again: Shadow | None
    behaviour: Behaviour
    evidence: str = ""

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "model": self.model,
            "release": self.release,
            "recording": {
                "digest": self.digest,
                "rows": self.recording.rows,
                "requests": self.recording.requests,
                "answered_by": self.recording.answered_by,
                "started": self.recording.origin.started,
            },
            "figures": to_json(self.figures),
            "recorded_release_again": to_json(self.again),
            "behaviour": to_json(self.behaviour),
            "evidence": self.evidence,
        }


def read(path: Path) -> tuple[Recording, str]:
    """A recording and the digest of its file.

    Raises:
        UsageError: No such file, or not a recording.
    """
    try:
        content = read_plain(path, most_bytes=LARGEST_BYTES, follow_links=True)
    except OSError as error:
        raise unreadable(path, error, remedy="policyctl record makes one.") from error
    found = Recording.from_bytes(content)
    if not found.rows:
        raise UsageError(f"{path} holds no observations", remedy="Record again while clients ask.")
    return found, digest_of(content)


def replay(
    control: Control,
    *,
    model: str,
    release: str,
    path: Path,
    format: Format | None = None,  # noqa: A002
) -> Replayed:
    """Ask a release for its actions on recorded observations and keep what came of it.

    Args:
        release: Selects the release (`State.select`); it is loaded as the model's candidate.
        format: Which artifact to load; None for the one that a promotion would choose.

    Raises:
        UsageError: No such release or format, or a recording that does not fit it.
        IntegrityError: The release is not as published.
        ServerError: No server answers, or the release cannot be loaded.
        BusyError: Another writer is at work.
    """
    recording, digest = read(path)
    release = select_release(control, model, release)
    with (
        control.repository.writer(f"replay {model} {release}", wait_s=control.settings.lock_wait_s),
        control.triton() as client,
    ):
        if found := recover(control, client, model):
            control.say(found.words)
        state = control.repository.journal.state()
        opened = open_release(control.repository, state.release(model, release))
        recording.require_fit(opened.contract)
        with (
            loaded(control, client, state, opened, place(control, state, opened, format)) as candidate,
            control.repository.writer_aside(),
        ):
            done = _replayed(candidate, recording, digest, control.settings.gates.replay)
        # Replaying reports; it is `validate --recording` that judges.
        kept, _ = record_measured(control, opened.published, "shadow", done.to_json())
    return replace(done, evidence=str(kept))


def replay_check(path: Path, chosen: ReplaySettings) -> tuple[str, Check]:
    """The gate `replay` on a recording, for `validate`.

    Raises:
        UsageError: Not a recording, or no limit is declared.
    """
    recording, digest = read(path)
    if (chosen.agreement, chosen.saturation_rise, chosen.roughness_rise) == (None, None, None):
        raise UsageError("the gate replay has no limit", remedy="Set POLICYCTL_GATES__REPLAY__AGREEMENT=0.9.")

    def run(candidate: Candidate) -> GateResult:
        recording.require_fit(candidate.opened.contract)
        done = _replayed(candidate, recording, digest, chosen)
        again = done.again.agreement if done.again else None
        return replay_gate.run(
            _criteria(done.figures, chosen),
            {**done.to_json(), "limits": chosen.model_dump()},
            requests=recording.requests,
            reproduced=None if again is None else again.mean,
        )

    return replay_gate.NAME, whole(replay_gate.NAME, run)


def behaviour_check(control: Control, chosen: BehaviourSettings, *, alias: str) -> tuple[str, Check]:
    """The gate `behaviour` against what `alias` serves, for `validate`.

    Raises:
        UsageError: No such environment, or no margin is declared.
        UnsupportedError: Gymnasium, or what the environment needs, is not installed.
    """
    check_alias(alias)
    if chosen.margin is None:
        raise UsageError(
            f"the gate behaviour has no margin for {chosen.env}",
            remedy="Declare how much less may be earned: --margin 5, in the environment's own return.",
        )
    margin = chosen.margin
    try:
        _environment(chosen).make().close()
    except ImportError as error:
        raise missing(error, "evaluate") from error

    def run(candidate: Candidate) -> GateResult:
        incumbent = candidate.incumbent(alias)
        if incumbent is None:
            return GateResult(
                behaviour_gate.NAME,
                Verdict.INCONCLUSIVE,
                f"{alias} names nothing to compare with",
                {"remedy": f"Promote a first release without it: policyctl promote {candidate.published.model}"},
            )
        return _played(control, candidate, incumbent, chosen, margin)

    return behaviour_gate.NAME, whole(behaviour_gate.NAME, run)


def _environment(chosen: BehaviourSettings) -> Environment:
    return Environment(chosen.env, chosen.env_args, chosen.wrappers)


class _TimeUpError(PolicyctlError):
    """The time cap of the episodes has passed."""


def _played(
    control: Control, candidate: Candidate, incumbent: ServedSlot, chosen: BehaviourSettings, margin: float
) -> GateResult:
    seeds = range(chosen.seed, chosen.seed + chosen.episodes)
    until = time.monotonic() + chosen.time_cap_s
    # Each is asked by its own contract: what both have in common is the environment.
    state, model = candidate.state, candidate.published.model
    incumbent_release = open_release(control.repository, state.release(model, incumbent.placement.release))
    try:
        words, cap_s = (
            f"Playing {len(seeds)} episodes of {chosen.env} with {incumbent.placement.release}",
            chosen.time_cap_s,
        )
        with control.working(words, at_most_s=cap_s) as note:
            before = _player(incumbent, incumbent_release.contract, until).play(_environment(chosen), seeds, note)
        with control.working(f"Playing the same with {candidate.published.release}", at_most_s=cap_s) as note:
            player = _player(candidate.ask, candidate.opened.contract, until)
            after = player.play(_environment(chosen), seeds, note)
    except _TimeUpError:
        reason = f"{chosen.episodes} episodes of {chosen.env} took longer than {chosen.time_cap_s:g} s"
        remedy = "Allow more time (POLICYCTL_GATES__BEHAVIOUR__TIME_CAP_S), or play fewer episodes."
        return GateResult(behaviour_gate.NAME, Verdict.INCONCLUSIVE, reason, {"remedy": remedy})
    judged = behaviour_gate.run(
        before.env_id, seeds, incumbent=before.returns.tolist(), candidate=after.returns.tolist(), margin=margin
    )
    against = {"served": incumbent.served, "release": incumbent.placement.release}
    earned = to_json(mean_with_interval(after.returns, rng=np.random.default_rng(0)))
    return replace(judged, evidence={**judged.evidence, "incumbent": against, "earned": earned})


def _player(ask: ServedSlot, contract: Contract, until: float) -> Player:
    outputs = (contract.action.name, *(state.output for state in contract.states))

    def answer(given: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        if time.monotonic() > until:
            raise _TimeUpError("the time is up")
        return ask(given, outputs)

    return Player(contract, answer)


def _replayed(candidate: Candidate, recording: Recording, digest: str, chosen: ReplaySettings) -> Replayed:
    contract, published = candidate.opened.contract, candidate.published
    inputs = {spec.name: recording.observations[spec.name] for spec in contract.observations}
    try:
        with candidate.control.working(f"Asking {candidate.ask.served} for {recording.rows} recorded observations"):
            answered = candidate.ask(inputs, wanted_outputs(contract))
        figures = shadow(contract, recording, answered, within=chosen.within)
        behaviour = describe(contract, answered, steps=recording.steps())
    except ValueError as error:
        raise UsageError(f"the recording does not fit {published.release}: {error}") from error
    again = _again(candidate, recording, chosen)
    return Replayed(published.model, published.release, recording, digest, figures, again, behaviour)


def _again(candidate: Candidate, recording: Recording, chosen: ReplaySettings) -> Shadow | None:
    """The release that answered then, asked again; None where it serves no more, or others answered too."""
    alias = recording.origin.alias
    incumbent = candidate.incumbent(alias) if recording.origin.model == candidate.published.model else None
    if incumbent is None or set(recording.answered_by) != {incumbent.placement.release}:
        return None
    state = candidate.state
    release = state.release(candidate.published.model, incumbent.placement.release)
    contract = open_release(candidate.control.repository, release).contract
    inputs = {spec.name: recording.observations[spec.name] for spec in contract.observations}
    return shadow(contract, recording, incumbent(inputs, wanted_outputs(contract)), within=chosen.within)


def _criteria(figures: Shadow, chosen: ReplaySettings) -> list[Criterion]:
    saturation, roughness = figures.saturation, figures.roughness
    compared = [("agreement", figures.agreement, chosen.agreement, True)]
    if saturation is not None:  # Without bounds nothing can saturate: there is nothing to judge, and nothing unknown.
        compared.append(("rise of saturation", saturation.rise, chosen.saturation_rise, False))
    rise = None if roughness is None else roughness.rise
    compared.append(("rise of roughness", rise, chosen.roughness_rise, False))
    return [
        Criterion(name, None, None, None, limit, at_least)
        if found is None
        else Criterion(name, found.mean, found.low, found.high, limit, at_least)
        for name, found, limit, at_least in compared
        if limit is not None
    ]
