"""Tune: find out how a release is served best on this machine, and believe it only when it wins again.

Each trial loads the release that an alias serves once more, as its candidate,
in another configuration, has it certified, and measures a few rounds of the
two in turn: only ratios that are paired in time mean anything on a machine
that others use too. Optuna chooses what to try next. The best are then
compared again, in rounds that the search did not see (`gates.superiority`).

No alias moves, and a rollback is not held up. An interrupt ends the trial that
runs and withdraws its candidate; what was tried is kept in the resume file.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from policyctl.adapters.pbtxt import ServingOptions, options_of
from policyctl.domain.json_values import from_json, to_json
from policyctl.domain.paired import Metric
from policyctl.domain.verdict import GateResult, Verdict
from policyctl.errors import PolicyctlError, UnsupportedError, UsageError
from policyctl.gates import superiority
from policyctl.gates.superiority import GainPlan as Claim
from policyctl.services.control import Control
from policyctl.services.evidence import record_gate
from policyctl.services.experiments.tuning_bench import TABLE_S, BatchCost, Bench, MovedError, Plan, Trial
from policyctl.services.experiments.tuning_space import Choice, Space, size_of, suggested
from policyctl.services.moves import serving_options as tuned
from policyctl.services.moves.measurement_lock import measuring
from policyctl.serving.hardware import detect

_SEARCH_S: Final = 8.0
"""For the rounds of one trial."""

_FEWEST_SEARCHED: Final = 2
_FINALISTS: Final = 3
_CONFIRM_SHARE: Final = 0.4
_SHORTEST_CONFIRM_S: Final = 20.0
_LONGEST_CONFIRM_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was found.

    Attributes:
        alias: Whose release is the incumbent.
        trials: In the order in which they were tried, those that were resumed first.
        verdicts: Of the finalists, with their configurations, in the order in which they were compared.
        winner: What to serve with; None where nothing proved better.
        config: The winner's ``config.pbtxt``; empty without one.
        batches: What batch sizes cost, with the winner or else the incumbent.
    """

    model: str
    alias: str
    release: str
    plan: Plan
    incumbent: ServingOptions
    trials: tuple[Trial, ...]
    verdicts: tuple[tuple[Choice, GateResult], ...]
    winner: Choice | None
    config: str
    batches: tuple[BatchCost, ...]
    kept: bool

    @property
    def batch_size(self) -> int | None:
        """The batch that answers most observations a second while its P99 keeps the limit."""
        within = [b for b in self.batches if b.p99_us <= self.plan.p99_limit_us]
        return max(within, key=lambda b: b.throughput_per_s).batch_size if within else None

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "model": self.model,
            "alias": self.alias,
            "release": self.release,
            "p99_limit_us": self.plan.p99_limit_us,
            "clients": self.plan.clients,
            "trials": to_json(self.trials),
            "finalists": [
                {"choice": to_json(c), "verdict": r.verdict.value, "reason": r.reason} for c, r in self.verdicts
            ],
            "winner": to_json(self.winner),
            "config": self.config,
            "kept": self.kept,
            "batches": to_json(self.batches),
            "batch_size": self.batch_size,
        }


def searched(control: Control, *, model: str, alias: str) -> Space:
    """What `tune` would search.

    Raises:
        UsageError: The alias names nothing.
    """
    return Bench.of(control, Plan(p99_limit_us=math.inf), model=model, alias=alias).searched


def tune(control: Control, plan: Plan, *, model: str, alias: str, keep: bool = True) -> Tuning:
    """Search, prove, and keep what proved better for the next promotion.

    Args:
        alias: Whose release and configuration are the incumbent.
        keep: Journal the winner; the next promotion of the model is served by it.

    Raises:
        UsageError: The alias names nothing, or the resume file is something else.
        ServerError: No server, or the alias moved meanwhile.
        BusyError: Another process measures.
        UnsupportedError: Optuna or perf_analyzer is not there.
    """
    until = time.monotonic() + plan.time_s
    bench = Bench.of(control, plan, model=model, alias=alias)
    with measuring(control, f"tune {model}"):
        reserve_s = max(_SHORTEST_CONFIRM_S, _CONFIRM_SHARE * plan.time_s) + TABLE_S
        trials = tuple(_search(bench, until=until - reserve_s))
        verdicts = tuple(_prove(bench, trials, until=until - TABLE_S))
        winner = next((choice for choice, result in verdicts if result.verdict is Verdict.PASSED), None)
        batches = tuple(bench.batch_costs(winner))
    config = bench.placement(winner).config if winner is not None else ""
    with control.repository.writer(f"tune {model}", wait_s=30.0):
        digest = ""
        for choice, result in verdicts:
            evidence = {**result.evidence, "choice": to_json(choice), "trials": to_json(trials)}
            digest = record_gate(control, bench.opened.published, replace(result, evidence=evidence))
        if winner is not None and keep:
            reason = verdicts[-1][1].reason
            tuned.keep(control, model, winner.settings(), reason=reason, evidence=digest)
    return Tuning(
        model=model,
        alias=alias,
        release=bench.opened.published.release,
        plan=plan,
        incumbent=options_of(bench.incumbent.config),
        trials=trials,
        verdicts=verdicts,
        winner=winner,
        config=config,
        batches=batches,
        kept=winner is not None and keep,
    )


def forget(control: Control, *, model: str) -> bool:
    """Serve the model by the settings alone again, from the next promotion on.

    Returns:
        Whether anything had been kept.
    """
    control.repository.require()
    with control.repository.writer(f"tune {model}", wait_s=control.settings.lock_wait_s):
        state = control.repository.journal.state()
        state.require(model)
        if model not in state.tuned:
            return False
        tuned.keep(control, model, None, reason="forgotten")
    return True


def _search(bench: Bench, *, until: float) -> Iterator[Trial]:
    """Trials until the time, or the space, is up; those of the resume file first."""
    study = _study(bench)
    seen: dict[Choice, Trial] = {}
    for known in _resumed(study):
        seen[known.choice] = known
        yield known
    possible, repeated = size_of(bench.searched), 0
    while time.monotonic() + _SEARCH_S < until and len(seen) < possible and repeated < 4 * possible:
        asked = study.ask()
        choice = suggested(asked, bench.searched)
        if not choice.is_sensible:
            study.tell(asked, -10.0)
            repeated += 1
            continue
        if (before := seen.get(choice)) is not None:
            study.tell(asked, before.score(bench.plan.p99_limit_us))
            repeated += 1
            continue
        with bench.control.working(f"Trying {choice.words}", at_most_s=_SEARCH_S):
            trial = _try(bench, choice)
        seen[choice] = trial
        asked.set_user_attr("trial", to_json(trial))
        study.tell(asked, trial.score(bench.plan.p99_limit_us))
        bench.control.say(f"Trial {len(seen)}: {choice.words}: {_said(trial)}")
        yield trial


def _try(bench: Bench, choice: Choice) -> Trial:
    try:
        found = bench.compare(choice, time_cap_s=_SEARCH_S, stop=lambda seen: False)
    except MovedError:
        raise
    except PolicyctlError as error:
        _require_uninterrupted(error)
        return Trial(choice, None, None, error.problem)
    if len(found) < _FEWEST_SEARCHED:
        return Trial(choice, None, None, "too slow to be measured in time")
    gain = -float(np.median([r.log_slow_down(Metric.THROUGHPUT) for r in found]))
    return Trial(choice, gain, float(np.median(superiority.candidate_p99_us(found))))


def _prove(bench: Bench, trials: Sequence[Trial], *, until: float) -> Iterator[tuple[Choice, GateResult]]:
    """Compare the best again, the most promising first, until one proves better or the time is up."""
    limit = bench.plan.p99_limit_us
    best = sorted((t for t in trials if t.score(limit) > 0.0), key=lambda t: -t.score(limit))[:_FINALISTS]
    for trial in best:
        cap_s = min(_LONGEST_CONFIRM_S, until - time.monotonic())
        if cap_s < _SHORTEST_CONFIRM_S:
            bench.control.say("The time is up: nothing more is compared.")
            return
        claim = Claim(Metric.THROUGHPUT, bench.plan.gain, limit, cap_s, alpha=0.05 / len(best))
        with bench.control.working(f"Comparing again: {trial.choice.words}", at_most_s=cap_s):
            result = _confirm(bench, trial.choice, claim)
        bench.control.say(f"Gate {superiority.NAME}: {result.verdict}. {result.reason}.")
        yield trial.choice, result
        if result.verdict is Verdict.PASSED:
            return


def _confirm(bench: Bench, choice: Choice, claim: Claim) -> GateResult:
    try:
        found = bench.compare(
            choice, time_cap_s=claim.time_cap_s, stop=lambda seen: superiority.judge(seen, claim) is not None
        )
    except MovedError:
        raise
    except PolicyctlError as error:
        _require_uninterrupted(error)
        return GateResult(superiority.NAME, Verdict.ERROR, f"measuring broke: {error.problem}", {})
    result = superiority.judge(found, claim, is_over=True)
    if result is None:
        raise AssertionError("the last look always says something")
    return result


def _require_uninterrupted(error: BaseException) -> None:
    """Be interrupted also where withdrawing the candidate failed after it, which looks like a failed trial."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        cause = cause.__context__


def _study(bench: Bench) -> Any:
    """Optuna's study of exactly this question; in the resume file, if there is one."""
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise UnsupportedError(
            f"tuning needs Optuna ({error})", remedy="Install it: pip install 'policyctl[tune]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage: Any = None
    if bench.plan.resume is not None:
        try:
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(bench.plan.resume)))
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(
                f"{bench.plan.resume} is not a file of earlier trials ({error})", remedy="Name another file."
            ) from error
    question = {
        "model": bench.model,
        "config": bench.incumbent.config,
        "p99_limit_us": bench.plan.p99_limit_us,
        "clients": bench.plan.clients,
        "machine": detect().fingerprint,
        "space": {name: list(map(str, values)) for name, values in bench.searched.items()},
    }
    sampler = optuna.samplers.TPESampler(seed=bench.plan.seed, n_startup_trials=8, multivariate=True)
    study = optuna.create_study(
        study_name=json.dumps(question, sort_keys=True),
        storage=storage,
        sampler=sampler,
        direction="maximize",
        load_if_exists=True,
    )
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        # An interrupt ended it.
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def _resumed(study: Any) -> Iterator[Trial]:
    for past in study.get_trials(deepcopy=False):
        kept = past.user_attrs.get("trial")
        if kept is not None:
            yield from_json(Trial, kept, what="a trial of the resume file")


def _said(trial: Trial) -> str:
    if trial.log_gain is None or trial.p99_us is None:
        return trial.words
    return f"throughput {100 * math.expm1(trial.log_gain):+.1f} %, P99 {trial.p99_us / 1e3:.2f} ms"
