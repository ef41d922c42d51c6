"""Tune: find out how a release is served best on this machine, and believe it only when it wins again.

Each trial loads the release that an alias serves once more, as its candidate,
in another configuration, has it certified, and measures a few rounds of the
two in turn: only ratios that are paired in time mean anything on a machine
that others use too. Optuna chooses what to try next. The best are then
compared anew, in rounds that the search did not see (`gates.superiority`).

No alias moves, and a rollback is not held up. An interrupt ends the trial that
runs and withdraws its candidate; what was tried is kept in the resume file.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np

from policyctl.adapters.pbtxt import ServingOptions, options_of
from policyctl.domain.artifacts import Format
from policyctl.domain.hardware import Hardware
from policyctl.domain.moves import Placement
from policyctl.domain.names import check_alias, check_model_name, served_name
from policyctl.domain.paired import Metric, Round
from policyctl.domain.verdict import GateResult, Verdict
from policyctl.errors import PolicyctlError, ServerError, UnsupportedError, UsageError
from policyctl.gates import superiority
from policyctl.gates.superiority import Plan as Claim
from policyctl.services import tuned
from policyctl.services.candidate import loaded
from policyctl.services.control import Control, OpenRelease, open_release
from policyctl.services.evidence import record_gate
from policyctl.services.measuring import measuring
from policyctl.services.moves import Mover, recover
from policyctl.services.performance import bursts_of
from policyctl.services.validate import place
from policyctl.serving.hardware import detect
from policyctl_benchmarks.paired import rounds

BATCHES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_INTERVAL_MS: Final = 150
_SEARCH_S: Final = 8.0
"""For the rounds of one trial."""

_FEWEST_SEARCHED: Final = 2
_FINALISTS: Final = 3
_CONFIRM_SHARE: Final = 0.4
_SHORTEST_CONFIRM_S: Final = 20.0
_LONGEST_CONFIRM_S: Final = 60.0
_TABLE_S: Final = 15.0
_THREADS: Final = "INFERENCE_NUM_THREADS"

Choice = Mapping[str, Any]
"""One configuration: by the names of the space."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to look for, and for how long.

    Attributes:
        p99_limit_us: What P99 must stay below.
        time_s: For everything together.
        clients: Requests under way while measuring.
        gain: How much better the winner must be: 0.02 is 2 %.
        resume: Where trials are kept; None keeps none.
        seed: Of the search and of the orders.
    """

    p99_limit_us: float
    time_s: float = 600.0
    clients: int = 8
    gain: float = 0.02
    resume: Path | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Trial:
    """What one configuration did in the search.

    Attributes:
        choice: The configuration.
        gain: Log gain of throughput over the incumbent; None where it could not be measured.
        p99_us: Its P99.
        words: Why it could not be measured.
    """

    choice: Choice
    gain: float | None
    p99_us: float | None
    words: str = ""

    def score(self, limit_us: float) -> float:
        """What the search makes large: the gain within the limit; beyond it, the less the farther."""
        if self.gain is None or self.p99_us is None:
            return -10.0
        return self.gain if self.p99_us <= limit_us else -1.0 - math.log(self.p99_us / limit_us)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {"choice": dict(self.choice), "log_gain": self.gain, "p99_us": self.p99_us, "words": self.words}


@dataclass(frozen=True, slots=True)
class BatchCost:
    """What a request of so many observations costs, asked by one client.

    Attributes:
        batch_size: Observations a request.
        p50_us: Of the request.
        p99_us: Of the request.
        throughput_per_s: Observations a second.
    """

    batch_size: int
    p50_us: float
    p99_us: float
    throughput_per_s: float

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was found.

    Attributes:
        model: Which model.
        alias: Whose release is the incumbent.
        release: That release.
        plan: What was asked.
        incumbent: How it is served.
        trials: In the order in which they were tried, those that were resumed first.
        verdicts: Of the finalists, with their configurations, in the order in which they were compared.
        winner: What to serve with; None where nothing proved better.
        config: The winner's ``config.pbtxt``; empty without one.
        batches: What batch sizes cost, with the winner or else the incumbent.
        kept: The winner was kept for the next promotion.
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
            "trials": [t.to_json() for t in self.trials],
            "finalists": [
                {"choice": dict(c), "verdict": r.verdict.value, "reason": r.reason} for c, r in self.verdicts
            ],
            "winner": None if self.winner is None else dict(self.winner),
            "config": self.config,
            "kept": self.kept,
            "batches": [b.to_json() for b in self.batches],
            "batch_size": self.batch_size,
        }


def space(hardware: Hardware, format: Format, *, max_batch_size: int) -> dict[str, tuple[Any, ...]]:  # noqa: A002
    """What is worth trying on a machine.

    Args:
        hardware: The machine.
        format: Which artifact is served; only OpenVINO takes a number of threads.
        max_batch_size: Beyond which nothing is preferred.
    """
    cores = max(1, int(hardware.cores))
    counts = tuple(n for n in (1, 2, 4, 8, 16) if n <= cores)
    preferred = tuple(tuple(s for s in sizes if s <= max_batch_size) for sizes in ((), (4,), (8,), (16,), (4, 8, 16)))
    found: dict[str, tuple[Any, ...]] = {
        "instances": counts,
        "max_queue_delay_us": (0, 50, 100, 200, 500),
        "preferred_batch_sizes": tuple(dict.fromkeys(preferred)),
    }
    if format is Format.OPENVINO:
        found["threads"] = counts
    return found


def size_of(searched: Mapping[str, Sequence[Any]]) -> int:
    """How many configurations there are."""
    return len([1 for choice in product(*searched.values()) if _is_sensible(dict(zip(searched, choice, strict=True)))])


def searched(control: Control, *, model: str, alias: str) -> dict[str, tuple[Any, ...]]:
    """What `tune` would search.

    Raises:
        UsageError: The alias names nothing.
    """
    return _Bench.of(control, Plan(p99_limit_us=math.inf), model=model, alias=alias).searched


def tune(control: Control, plan: Plan, *, model: str, alias: str, keep: bool = True) -> Tuning:
    """Search, prove, and keep what proved better for the next promotion.

    Args:
        control: The control plane.
        plan: What to look for.
        model: Which model.
        alias: Whose release and configuration are the incumbent.
        keep: Journal the winner; the next promotion of the model is served by it.

    Raises:
        UsageError: The alias names nothing, or the resume file is something else.
        ServerError: No server, or the alias moved meanwhile.
        BusyError: Another process measures.
        UnsupportedError: Optuna or perf_analyzer is not there.
    """
    until = time.monotonic() + plan.time_s
    bench = _Bench.of(control, plan, model=model, alias=alias)
    with measuring(control, f"tune {model}"):
        reserve_s = max(_SHORTEST_CONFIRM_S, _CONFIRM_SHARE * plan.time_s) + _TABLE_S
        trials = tuple(_search(bench, until=until - reserve_s))
        verdicts = tuple(_prove(bench, trials, until=until - _TABLE_S))
        winner = next((choice for choice, result in verdicts if result.verdict is Verdict.PASSED), None)
        batches = tuple(bench.batch_costs(winner))
    config = bench.placement(winner).config if winner is not None else ""
    with control.repository.writer(f"tune {model}", wait_s=30.0):
        digest = ""
        for choice, result in verdicts:
            evidence = {**result.evidence, "choice": dict(choice), "trials": [t.to_json() for t in trials]}
            digest = record_gate(control, bench.opened.published, replace(result, evidence=evidence))
        if winner is not None and keep:
            reason = verdicts[-1][1].reason
            tuned.keep(control, model, fields_of(winner), reason=reason, evidence=digest)
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


def fields_of(choice: Choice) -> dict[str, Any]:
    """A choice by the names of the settings."""
    found = {name: value for name, value in choice.items() if name != "threads"}
    found["preferred_batch_sizes"] = list(found.get("preferred_batch_sizes", ()))
    if "threads" in choice:
        found["parameters"] = {_THREADS: str(choice["threads"])}
    return found


@dataclass(frozen=True, slots=True)
class _Bench:
    """One release with one incumbent, and how configurations of it are measured."""

    control: Control
    plan: Plan
    model: str
    alias: str
    opened: OpenRelease
    incumbent: Placement
    searched: dict[str, tuple[Any, ...]]
    rng: np.random.Generator

    @classmethod
    def of(cls, control: Control, plan: Plan, *, model: str, alias: str) -> _Bench:
        """Raises: UsageError: The alias names nothing."""
        check_model_name(model)
        check_alias(alias)
        control.repository.require()
        state = control.repository.journal.state()
        named = state.alias(model, alias)
        if named is None:
            raise UsageError(
                f"alias {alias} of {model} names no release", remedy=f"Promote one: policyctl promote {model} RELEASE"
            )
        opened = open_release(control.repository, state.release(model, named.placement.release))
        largest = options_of(named.placement.config).max_batch_size
        searched = space(detect(), named.placement.format, max_batch_size=largest)
        rng = np.random.default_rng(plan.seed)
        return cls(control, plan, model, alias, opened, named.placement, searched, rng)

    def placement(self, choice: Choice) -> Placement:
        """The release, configured by `choice`; everything else as the incumbent has it."""
        now = options_of(self.incumbent.config)
        parameters = dict(now.parameters)
        if "threads" in choice:
            parameters[_THREADS] = str(choice["threads"])
        serving = self.control.settings.serving.model_copy(
            update={
                "max_batch_size": now.max_batch_size,
                "gpu": now.gpu,
                "instances": choice["instances"],
                "max_queue_delay_us": choice["max_queue_delay_us"],
                "preferred_batch_sizes": tuple(choice["preferred_batch_sizes"]),
                "parameters": parameters,
            }
        )
        chosen = Control.of(self.control.settings.model_copy(update={"serving": serving}))
        state = self.control.repository.journal.state()
        return place(chosen, state, self.opened, self.incumbent.format)

    def compare(self, choice: Choice, *, time_cap_s: float, stop: Callable[[Sequence[Round]], bool]) -> list[Round]:
        """Load the release as a candidate in a configuration and measure it beside the incumbent.

        Raises:
            ServerError: It could not be loaded or certified, or measuring broke.
        """
        control = self.control
        with (
            control.repository.writer(f"tune {self.model}", wait_s=control.settings.lock_wait_s),
            control.triton() as client,
        ):
            recover(control, client)
            state = control.repository.journal.state()
            self._require_unmoved()
            placement = self.placement(choice)
            seen: list[Round] = []
            with loaded(control, client, state, self.opened, placement) as candidate:
                certified = Mover(control, client).certify(self.model, candidate.ask.served, placement)
                if certified.verdict is not Verdict.PASSED:
                    raise ServerError(f"not certified: {certified.reason}")
                with (
                    control.repository.writer_aside(),
                    bursts_of(control, self.opened, interval_ms=_INTERVAL_MS) as bursts,
                ):
                    for each in rounds(
                        bursts,
                        incumbent=served_name(self.model, self.alias),
                        candidate=candidate.ask.served,
                        clients=self.plan.clients,
                        time_cap_s=time_cap_s,
                        rng=self.rng,
                    ):
                        seen.append(each)
                        if stop(seen):
                            break
                self._require_unmoved()
            return seen

    def batch_costs(self, choice: Choice | None) -> Iterator[BatchCost]:
        """What batch sizes cost, with `choice` or the incumbent; as far as the time for it lasts."""
        until = time.monotonic() + _TABLE_S
        largest = max(1, options_of(self.incumbent.config).max_batch_size)
        sizes = [size for size in BATCHES if size <= largest]
        control = self.control
        placement = self.incumbent if choice is None else self.placement(choice)
        with (
            control.repository.writer(f"tune {self.model}", wait_s=30.0),
            control.triton() as client,
            loaded(control, client, control.repository.journal.state(), self.opened, placement) as candidate,
            control.repository.writer_aside(),
        ):
            for size in sizes:
                if time.monotonic() >= until:
                    return
                with bursts_of(control, self.opened, interval_ms=_INTERVAL_MS, batch_size=size) as bursts:
                    burst = bursts.closed(candidate.ask.served, clients=1)
                yield BatchCost(size, burst.p50_us, burst.p99_us, burst.throughput_per_s)

    def _require_unmoved(self) -> None:
        named = self.control.repository.journal.state().alias(self.model, self.alias)
        if named is None or named.placement.config != self.incumbent.config:
            raise _MovedError(
                f"{self.alias} of {self.model} moved while it was tuned: there is nothing to compare with any more",
                remedy="Tune again; --resume starts anew for what is served now.",
            )


class _MovedError(ServerError):
    """Nothing that follows would mean anything."""


def _search(bench: _Bench, *, until: float) -> Iterator[Trial]:
    """Trials until the time, or the space, is up; those of the resume file first."""
    study = _study(bench)
    seen: dict[str, Trial] = {}
    for known in _resumed(study):
        seen[_key(known.choice)] = known
        yield known
    possible, repeated = size_of(bench.searched), 0
    while time.monotonic() + _SEARCH_S < until and len(seen) < possible and repeated < 4 * possible:
        asked = study.ask()
        choice = {name: _read(asked.suggest_categorical(name, _written(v))) for name, v in bench.searched.items()}
        if not _is_sensible(choice):
            study.tell(asked, -10.0)
            repeated += 1
            continue
        if (before := seen.get(_key(choice))) is not None:
            study.tell(asked, before.score(bench.plan.p99_limit_us))
            repeated += 1
            continue
        trial = _try(bench, choice)
        seen[_key(choice)] = trial
        asked.set_user_attr("trial", trial.to_json())
        study.tell(asked, trial.score(bench.plan.p99_limit_us))
        bench.control.say(f"Trial {len(seen)}: {words(choice)}: {_said(trial)}")
        yield trial


def _try(bench: _Bench, choice: Choice) -> Trial:
    try:
        found = bench.compare(choice, time_cap_s=_SEARCH_S, stop=lambda seen: False)
    except _MovedError:
        raise
    except PolicyctlError as error:
        return Trial(choice, None, None, error.problem)
    if len(found) < _FEWEST_SEARCHED:
        return Trial(choice, None, None, "too slow to be measured in time")
    gain = -float(np.median([r.log_slow_down(Metric.THROUGHPUT) for r in found]))
    return Trial(choice, gain, float(np.median(superiority.candidate_p99_us(found))))


def _prove(bench: _Bench, trials: Sequence[Trial], *, until: float) -> Iterator[tuple[Choice, GateResult]]:
    """Compare the best anew, the most promising first, until one proves better or the time is up."""
    limit = bench.plan.p99_limit_us
    best = sorted((t for t in trials if t.score(limit) > 0.0), key=lambda t: -t.score(limit))[:_FINALISTS]
    for trial in best:
        cap_s = min(_LONGEST_CONFIRM_S, until - time.monotonic())
        if cap_s < _SHORTEST_CONFIRM_S:
            bench.control.say("The time is up: nothing more is compared.")
            return
        claim = Claim(Metric.THROUGHPUT, bench.plan.gain, limit, cap_s, alpha=0.05 / len(best))
        bench.control.say(f"Comparing anew for up to {cap_s:.0f} s: {words(trial.choice)} ...")
        result = _confirm(bench, trial.choice, claim)
        bench.control.say(f"Gate {superiority.NAME}: {result.verdict}. {result.reason}.")
        yield trial.choice, result
        if result.verdict is Verdict.PASSED:
            return


def _confirm(bench: _Bench, choice: Choice, claim: Claim) -> GateResult:
    try:
        found = bench.compare(
            choice, time_cap_s=claim.time_cap_s, stop=lambda seen: superiority.judge(seen, claim) is not None
        )
    except _MovedError:
        raise
    except PolicyctlError as error:
        return GateResult(superiority.NAME, Verdict.ERROR, f"measuring broke: {error.problem}", {})
    result = superiority.judge(found, claim, is_over=True)
    if result is None:
        raise AssertionError("the last look always says something")
    return result


def _study(bench: _Bench) -> Any:
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
                f"{bench.plan.resume} is no file of earlier trials ({error})", remedy="Name another file."
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
            choice = {k: tuple(v) if isinstance(v, list) else v for k, v in kept["choice"].items()}
            yield Trial(choice, kept["log_gain"], kept["p99_us"], kept["words"])


def _is_sensible(choice: Choice) -> bool:
    """Whether no other choice is the same by another name: sizes are preferred only by those who wait."""
    return bool(choice["max_queue_delay_us"]) or not choice["preferred_batch_sizes"]


def _written(values: Sequence[Any]) -> list[Any]:
    """As Optuna keeps them: it takes no tuples."""
    return [json.dumps(list(v)) if isinstance(v, tuple) else v for v in values]


def _read(value: Any) -> Any:
    return tuple(json.loads(value)) if isinstance(value, str) else value


def _key(choice: Choice) -> str:
    return json.dumps({k: list(v) if isinstance(v, tuple) else v for k, v in choice.items()}, sort_keys=True)


def words(choice: Choice) -> str:
    """For people."""
    sizes = ", ".join(map(str, choice["preferred_batch_sizes"])) or "none"
    threads = f", {choice['threads']} threads" if "threads" in choice else ""
    return f"{choice['instances']} instances{threads}, delay {choice['max_queue_delay_us']} us, preferred {sizes}"


def _said(trial: Trial) -> str:
    if trial.gain is None or trial.p99_us is None:
        return trial.words
    return f"throughput {100 * math.expm1(trial.gain):+.1f} %, P99 {trial.p99_us / 1e3:.2f} ms"
