"""What a model card says, as titled tables: what the Markdown and the HTML page of a card have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from policyctl.card.schema import ActionComponent, Card, Evidence
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
    every_table = [
        Table("Release", FACTS, _release(card, private=private)),
        Table("Contract", FACTS, _contract(card)),
        Table("Training", FACTS, _training(card)),
        Table(
            "Evaluation",
            ("environment", "episodes", "mean return", "interval", "std", "artifact", "evidence"),
            [_evaluation(entry) for entry in card.evaluation],
            note="Undiscounted returns of whole episodes; the interval is of the mean.",
        ),
        Table(
            "Behaviour",
            ("observations", "actions", "at a bound", "change a step", "entropy, nats", "evidence"),
            [_behaviour(entry) for entry in card.behaviour],
            note="At a bound: share of components (saturation). Change a step: mean, as a share of the range, or the"
            " share of steps with another choice (roughness; a smooth policy is near 0). Golden observations are"
            " drawn from the observation space: an environment shows others.",
        ),
        Table(
            "Actions",
            ("observations", "element", "how it spreads"),
            [
                (entry.observations, component.name, _spread(component))
                for entry in card.behaviour
                for component in entry.actions
            ],
        ),
        *_performance(card),
        Table("Parity", ("artifact", "observations", "near-ties", "largest difference"), _parity(card)),
        Table("Limits of use", ("kind", "what"), _limits(card)),
        Table("Service level", ("limit", "value"), _stated(card.service_level)),
        Table("Gates", ("gate", "verdict", "time", "evidence"), _gates(card)),
        Table("Signatures", ("name", "counts here", "key", "since", "evidence"), _signatures(card)),
        Table("Provenance", FACTS, _provenance(card)),
        Table("Files", ("path", "bytes", "digest"), _files(card)),
        Table("Also", FACTS, [(name, _plain(value)) for name, value in card.extensions.items()]),
    ]
    return [table for table in every_table if table.rows]


def cited(evidence: Evidence) -> str:
    """A file and the beginning of its digest."""
    return f"{evidence.file} ({evidence.digest[:_SHOWN_DIGEST]})"


def _release(card: Card, *, private: bool) -> list[tuple[str, str]]:
    release = card.release
    if release is None:
        return []
    rows = [
        ("model", release.model),
        ("release", release.release),
        ("manifest", release.manifest_digest),
        ("published", release.published),
    ]
    return [*rows, ("by", release.by)] if private else rows


def _contract(card: Card) -> list[tuple[str, str]]:
    contract = card.contract
    if contract is None:
        return []
    return [
        *(("observation", tensor) for tensor in contract.observations),
        *(("output", tensor) for tensor in contract.outputs),
        ("action", contract.action_kind),
        ("drawn from", contract.distribution),
        *([] if contract.max_batch is None else [("rows at once", str(contract.max_batch))]),
    ]


def _training(card: Card) -> list[tuple[str, str]]:
    training = card.training
    if training is None:
        return []
    framework, environment = training.framework, training.environment
    rows = [
        ("algorithm", training.algorithm),
        ("framework", f"{framework.name} {framework.version or ''}".strip() if framework else None),
        ("environment", environment.id if environment else None),
        ("options of the environment", _plain(environment.options) if environment and environment.options else None),
        ("steps", None if training.steps is None else f"{training.steps}"),
        ("environments side by side", None if training.environments is None else str(training.environments)),
        ("seed", None if training.seed is None else str(training.seed)),
        ("commit", training.commit),
        *((name, _plain(value)) for name, value in training.hyperparameters.items()),
        *((name, version) for name, version in training.libraries.items()),
    ]
    return [(name, value) for name, value in rows if value is not None]


def _evaluation(entry: Any) -> tuple[str, ...]:
    returns = entry.returns
    return (
        entry.environment,
        f"{entry.episodes} (seeds from {entry.first_seed})",
        f"{returns.mean:g}",
        f"{returns.low:g} .. {returns.high:g} ({100 * returns.confidence:g} %)",
        f"{returns.std:g}",
        entry.format or "-",
        cited(entry.evidence),
    )


def _behaviour(entry: Any) -> tuple[str, ...]:
    return (
        entry.observations,
        str(entry.rows),
        _number(entry.saturation),
        _number(entry.roughness),
        _number(entry.entropy),
        cited(entry.evidence),
    )


def _spread(component: ActionComponent) -> str:
    if component.quantiles is not None:
        lowest, low, q1, median, q3, high, highest = component.quantiles
        summary = f"median {median:g}, half within {q1:g} .. {q3:g}, nine tenths within {low:g} .. {high:g}"
        return f"{summary}, all within {lowest:g} .. {highest:g}"
    shares = sorted((component.shares or {}).items(), key=lambda item: -item[1])
    summary = ", ".join(f"{choice}: {100 * share:.3g} %" for choice, share in shares[:_MOST_SHARES])
    return f"{summary} and {len(shares) - _MOST_SHARES} more" if len(shares) > _MOST_SHARES else summary or "-"


def _performance(card: Card) -> Iterable[Table]:
    """A table a machine."""
    machines = {entry.machine.fingerprint: entry.machine.words for entry in card.performance}
    for fingerprint, machine in machines.items():
        yield Table(
            f"Performance on {fingerprint}",
            ("load", "artifact", "p50 us", "p95 us", "p99 us", "observations/s", "memory MB", "failed", "evidence"),
            [
                (
                    entry.load,
                    entry.format,
                    f"{entry.latency_us.p50:.0f}",
                    f"{entry.latency_us.p95:.0f}",
                    f"{entry.latency_us.p99:.0f}",
                    f"{entry.throughput_per_s:.0f}",
                    _number(entry.memory_mb),
                    f"{entry.failed} of {entry.requests}",
                    cited(entry.evidence),
                )
                for entry in card.performance
                if entry.machine.fingerprint == fingerprint
            ],
            note=machine,
        )


def _parity(card: Card) -> list[tuple[str, ...]]:
    if card.parity is None:
        return []
    return [
        (
            name,
            str(parity.rows),
            str(parity.near_ties),
            ", ".join(f"{k} {v:.3g}" for k, v in parity.max_abs.items()) or "-",
        )
        for name, parity in card.parity.formats.items()
    ]


def _limits(card: Card) -> list[tuple[str, str]]:
    limits = card.limits_of_use
    if limits is None:
        return []
    kinds = (("intended", limits.intended), ("not for", limits.out_of_scope), ("risk", limits.risks))
    return [(kind, limit) for kind, each in kinds for limit in each]


def _gates(card: Card) -> list[tuple[str, ...]]:
    gates = card.release.gates if card.release else []
    return [(gate.gate, gate.verdict, utc_text(gate.time), cited(gate.evidence)) for gate in gates]


def _signatures(card: Card) -> list[tuple[str, ...]]:
    signatures = card.release.signatures if card.release else []
    return [
        (s.signer or s.name, s.standing or "not judged", s.key, utc_text(s.since), cited(s.evidence))
        for s in signatures
    ]


def _provenance(card: Card) -> list[tuple[str, str]]:
    rows: list[tuple[str, str | None]] = [("licence", card.licence)]
    rows += [("owner", f"{owner.name} ({owner.contact})" if owner.contact else owner.name) for owner in card.owners]
    if provenance := card.provenance:
        rows += [("exported", provenance.created), ("source code", provenance.repository)]
        if source := provenance.source:
            rows += [
                ("exported from", f"{source.file or source.kind} ({source.kind})"),
                ("its digest", source.digest),
                ("normaliser", source.normalizer),
                ("the normaliser's digest", source.normalizer_digest),
            ]
        rows += [(f"exported with {name}", version) for name, version in provenance.exported_with.items()]
    return [(name, value) for name, value in rows if value is not None]


def _files(card: Card) -> list[tuple[str, ...]]:
    files = card.release.files if card.release else []
    return [(file.path, str(file.size_bytes), file.digest) for file in files]


def _stated(section: Any) -> list[tuple[str, str]]:
    if section is None:
        return []
    return [(name, f"{value:g}") for name, value in section.model_dump().items() if value is not None]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _plain(value: Any) -> str:
    """A value of any kind on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_plain(each)}" for name, each in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "-"
    return "-" if value is None else str(value)
