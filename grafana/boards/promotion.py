"""A promotion: what changed for clients when an alias moved from one release to another."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import units

from boards import parts
from boards.parts import ALIASES, Panel, Query, figure, lines, rows, states

_WHO = "{{alias}} {{release}}"


def build() -> dashboard.Dashboard:
    """Before and after the switch."""
    made = parts.board(
        "policyctl-promotion",
        "policyctl: promotion",
        "Before and after a switch: choose the time around it.",
        variables=[
            parts.labels_of("model", "model", 'policyctl_alias_info{server=~"$server"}', every=False),
            parts.labels_of("alias", "alias", 'policyctl_alias_info{server=~"$server",model=~"$model"}'),
        ],
        annotations=[parts.SWITCHES, parts.FAILED_MOVES, parts.ALERTS],
    )
    for panel in (*_now(), _side_by_side(), *_around(), *_moves()):
        made = made.with_panel(panel)
    return made


def _now() -> tuple[Panel, ...]:
    return (
        figure(
            "Serves now",
            "The release that each alias names.",
            Query(f"policyctl_alias_info{{{ALIASES}}}", _WHO, instant=True),
            width=8,
            name=True,
        ),
        figure(
            "Certified",
            "When what each alias names gave its golden answers, all of them, on this server.",
            Query(f"policyctl_alias_certified_timestamp_seconds{{{ALIASES}}} * 1000", "{{alias}}", instant=True),
            unit=units.DateTimeFromNow,
            width=8,
        ),
        figure(
            "Under way",
            "How long a move has been under way; 0 where none is.",
            Query(f"max(time() - policyctl_move_unfinished_timestamp_seconds{{{ALIASES}}}) or vector(0)", instant=True),
            unit=units.Seconds,
            width=8,
        ),
    )


def _side_by_side() -> Panel:
    return rows(
        "Release by release",
        "Means over the time that is shown, and the worst p99 of a minute in it.",
        _over_the_time("avg", "release:nv_inference_success:rate1m"),
        _over_the_time("avg", "release:nv_inference_failures:rate1m"),
        _over_the_time("avg", "release:nv_inference_request_seconds:mean1m", times=1000),
        _over_the_time("avg", "release:policyctl_probe_duration_seconds:p50_1m", times=1000),
        _over_the_time("max", "release:policyctl_probe_duration_seconds:p99_1m", times=1000),
        columns={
            "model": "model",
            "alias": "alias",
            "release": "release",
            "Value #A": "answered a second",
            "Value #B": "failed a second",
            "Value #C": "mean in the server, ms",
            "Value #D": "probe p50, ms",
            "Value #E": "probe p99 at worst, ms",
        },
    )


def _over_the_time(what: str, series: str, *, times: int = 1) -> Query:
    """One number for each release, over the time that is shown."""
    number = f"{what} by (model, alias, release) ({what}_over_time({series}{{{ALIASES}}}[$__range]))"
    return Query(number + f" * {times}" * (times != 1), columns=True)


def _around() -> tuple[Panel, ...]:
    return (
        states(
            "Which release",
            "The release that each alias named.",
            Query(f"policyctl_alias_info{{{ALIASES}}}", _WHO),
        ),
        lines(
            "Answered",
            "A switch loses no request: one curve takes over from the other.",
            Query(f"release:nv_inference_success:rate1m{{{ALIASES}}}", _WHO),
            unit=units.RequestsPerSecond,
            width=8,
        ),
        lines(
            "Failed",
            "By release.",
            Query(f"release:nv_inference_failures:rate1m{{{ALIASES}}}", _WHO),
            unit=units.RequestsPerSecond,
            width=8,
        ),
        lines(
            "Latency",
            "What the prober waited.",
            Query(f"release:policyctl_probe_duration_seconds:p50_1m{{{ALIASES}}}", f"p50 {_WHO}"),
            Query(f"release:policyctl_probe_duration_seconds:p99_1m{{{ALIASES}}}", f"p99 {_WHO}"),
            unit=units.Seconds,
            width=8,
        ),
    )


def _moves() -> tuple[Panel, ...]:
    return (
        rows(
            "Moves so far",
            "From the journal: done, reverted (failed, the incumbent was kept), aborted (by somebody).",
            Query(f"sum by (model, alias, kind, outcome) (policyctl_moves_total{{{ALIASES}}}) > 0", columns=True),
            columns={"model": "model", "alias": "alias", "kind": "kind", "outcome": "outcome", "Value": "moves"},
            width=12,
        ),
        rows(
            "Verdicts so far",
            "Of the gates; the bake is one of them.",
            Query(
                'sum by (model, gate, verdict) (policyctl_gate_verdicts_total{server=~"$server",model=~"$model"}) > 0',
                columns=True,
            ),
            columns={"model": "model", "gate": "gate", "verdict": "verdict", "Value": "times"},
            width=12,
        ),
    )
