"""What a model card says, as titled tables: what the Markdown and the HTML page of a card have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from policyctl.card.schema import ActionComponent, Card
from policyctl.domain.instants import utc_text

FACTS: Final = ("fact", "value")
_SHOWN_DIGEST: Final = 19
_MOST_SHARES: Final = 8


@dataclass(frozen=True, slots=True)
class Table:
    """One table.

    Attributes:
        rows: Cells as text, not escaped.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def title_of(card: Card) -> str:
    """What the card is called."""
    release = f"{card.release.model} {card.release.release}" if card.release else ""
    return f"{card.name} ({release})" if card.name and release else card.name or release or "Model card"


def tables(card: Card, *, private: bool = True) -> list[Table]:
    """Everything that a card says, but for its name and its summary; nothing that it does not.

    Args:
        private: With who published it; not for a page that is made to be given away.
    """
    release, service_level = card.release, card.service_level
    every_table = [
        _facts("Release", _release(card, private=private)),
        _facts("Contract", _contract(card)),
        _facts("Training", _training(card)),
        *_measured(card),
        _listed(
            "Parity",
            card.parity.formats.items() if card.parity else (),
            {
                "artifact": lambda each: each[0],
                "observations": lambda each: str(each[1].rows),
                "near-ties": lambda each: str(each[1].near_ties),
                "largest difference": lambda each: ", ".join(f"{k} {v:.3g}" for k, v in each[1].max_abs.items()) or "-",
            },
        ),
        Table("Limits of use", ("kind", "what"), list(_limits(card))),
        Table(
            "Service level",
            ("limit", "value"),
            [(name, f"{value:g}") for name, value in service_level or () if value is not None],
        ),
        _listed(
            "Gates",
            release.gates if release else (),
            {
                "gate": lambda gate: gate.gate,
                "verdict": lambda gate: gate.verdict,
                "time": lambda gate: utc_text(gate.time),
                "evidence": _cited,
            },
        ),
        _listed(
            "Signatures",
            release.signatures if release else (),
            {
                "name": lambda s: s.signer or s.name,
                "counts here": lambda s: s.standing or "not judged",
                "key": lambda s: s.key,
                "since": lambda s: utc_text(s.since),
                "evidence": _cited,
            },
        ),
        _facts("Provenance", _provenance(card)),
        _listed(
            "Files",
            release.files if release else (),
            {
                "path": lambda file: file.path,
                "bytes": lambda file: str(file.size_bytes),
                "digest": lambda file: file.digest,
            },
        ),
        _facts("Also", ((name, _plain(value)) for name, value in card.extensions.items())),
    ]
    return [table for table in every_table if table.rows]


def _listed(title: str, entries: Iterable[Any], columns: Mapping[str, Callable[[Any], str]], note: str = "") -> Table:
    """A row an entry; each column with what it shows of one."""
    return Table(title, tuple(columns), [[read(entry) for read in columns.values()] for entry in entries], note)


def _facts(title: str, pairs: Iterable[tuple[str, Any]]) -> Table:
    """What is known, by name."""
    return Table(title, FACTS, [(name, _plain(value)) for name, value in pairs if value is not None])


def _measured(card: Card) -> Iterator[Table]:
    """What was measured, each figure with its evidence; performance in a table a machine."""
    yield _listed(
        "Evaluation",
        card.evaluation,
        {
            "environment": lambda e: e.environment,
            "episodes": lambda e: f"{e.episodes} (seeds from {e.first_seed})",
            "mean return": lambda e: f"{e.returns.mean:g}",
            "interval": lambda e: f"{e.returns.low:g} .. {e.returns.high:g} ({100 * e.returns.confidence:g} %)",
            "std": lambda e: f"{e.returns.std:g}",
            "artifact": lambda e: e.format or "-",
            "evidence": _cited,
        },
        "Undiscounted returns of whole episodes; the interval is of the mean.",
    )
    yield _listed(
        "Behaviour",
        card.behaviour,
        {
            "observations": lambda e: e.observations,
            "actions": lambda e: str(e.rows),
            "at a bound": lambda e: _number(e.saturation),
            "change a step": lambda e: _number(e.roughness),
            "entropy, nats": lambda e: _number(e.entropy),
            "evidence": _cited,
        },
        "At a bound: share of components (saturation). Change a step: mean, as a share of the range, or the"
        " share of steps with another choice (roughness; a smooth policy is near 0). Golden observations are"
        " drawn from the observation space: an environment shows others.",
    )
    yield _listed(
        "Actions",
        [(entry.observations, component) for entry in card.behaviour for component in entry.actions],
        {
            "observations": lambda each: each[0],
            "element": lambda each: each[1].name,
            "how it spreads": lambda each: _spread(each[1]),
        },
    )
    machines = {entry.machine.fingerprint: entry.machine.words for entry in card.performance}
    for fingerprint, machine in machines.items():
        yield _listed(
            f"Performance on {fingerprint}",
            [entry for entry in card.performance if entry.machine.fingerprint == fingerprint],
            {
                "load": lambda e: e.load,
                "artifact": lambda e: e.format,
                "p50 us": lambda e: f"{e.latency_us.p50:.0f}",
                "p95 us": lambda e: f"{e.latency_us.p95:.0f}",
                "p99 us": lambda e: f"{e.latency_us.p99:.0f}",
                "observations/s": lambda e: f"{e.throughput_per_s:.0f}",
                "memory MB": lambda e: _number(e.memory_mb),
                "failed": lambda e: f"{e.failed} of {e.requests}",
                "evidence": _cited,
            },
            machine,
        )


def _cited(entry: Any) -> str:
    """The file of an entry's evidence, and the beginning of its digest."""
    return f"{entry.evidence.file} ({entry.evidence.digest[:_SHOWN_DIGEST]})"


def _release(card: Card, *, private: bool) -> Iterator[tuple[str, Any]]:
    if release := card.release:
        yield "model", release.model
        yield "release", release.release
        yield "manifest", release.manifest_digest
        yield "published", release.published
        yield "by", release.by if private else None


def _contract(card: Card) -> Iterator[tuple[str, Any]]:
    if contract := card.contract:
        yield from (("observation", tensor) for tensor in contract.observations)
        yield from (("output", tensor) for tensor in contract.outputs)
        yield "action", contract.action_kind
        yield "drawn from", contract.distribution
        yield "rows at once", contract.max_batch
        yield from (("memory", pair) for pair in contract.memory or ())


def _training(card: Card) -> Iterator[tuple[str, Any]]:
    if training := card.training:
        framework, environment = training.framework, training.environment
        yield "algorithm", training.algorithm
        yield "framework", f"{framework.name} {framework.version or ''}".strip() if framework else None
        yield "environment", environment.id if environment else None
        yield "options of the environment", (environment.options or None) if environment else None
        yield "steps", training.steps
        yield "environments side by side", training.environments
        yield "seed", training.seed
        yield "commit", training.commit
        yield from ((name, _plain(value)) for name, value in training.hyperparameters.items())
        yield from training.libraries.items()


def _limits(card: Card) -> Iterator[tuple[str, str]]:
    if limits := card.limits_of_use:
        yield from (("intended", each) for each in limits.intended)
        yield from (("not for", each) for each in limits.out_of_scope)
        yield from (("risk", each) for each in limits.risks)


def _provenance(card: Card) -> Iterator[tuple[str, Any]]:
    yield "licence", card.licence
    for owner in card.owners:
        yield "owner", f"{owner.name} ({owner.contact})" if owner.contact else owner.name
    if provenance := card.provenance:
        yield "exported", provenance.created
        yield "source code", provenance.repository
        if source := provenance.source:
            yield "exported from", f"{source.file or source.kind} ({source.kind})"
            yield "its digest", source.digest
            yield "normaliser", source.normalizer
            yield "the normaliser's digest", source.normalizer_digest
        yield from ((f"exported with {name}", version) for name, version in provenance.exported_with.items())


def _spread(component: ActionComponent) -> str:
    if component.quantiles is not None:
        lowest, low, q1, median, q3, high, highest = component.quantiles
        summary = f"median {median:g}, half within {q1:g} .. {q3:g}, nine tenths within {low:g} .. {high:g}"
        return f"{summary}, all within {lowest:g} .. {highest:g}"
    shares = sorted((component.shares or {}).items(), key=lambda item: -item[1])
    summary = ", ".join(f"{choice}: {100 * share:.3g} %" for choice, share in shares[:_MOST_SHARES])
    return f"{summary} and {len(shares) - _MOST_SHARES} more" if len(shares) > _MOST_SHARES else summary or "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _plain(value: Any) -> str:
    """A value of any kind on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_plain(each)}" for name, each in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "-"
    return "-" if value is None else str(value)
