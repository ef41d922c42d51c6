"""One model, release by release: who served when, how much, how quickly, how well."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import units

from boards import parts
from boards.parts import ALIASES, RELEASES, SERVER, Panel, Query, histogram, lines, states

_WHO = "{{alias}} {{release}}"


def build() -> dashboard.Dashboard:
    """One model."""
    made = parts.board(
        "policyctl-model",
        "policyctl: one model",
        "Everything about one model, by alias and release.",
        variables=[
            parts.labels_of("model", "model", 'policyctl_alias_info{server=~"$server"}', every=False),
            parts.labels_of("alias", "alias", 'policyctl_alias_info{server=~"$server",model=~"$model"}'),
            parts.labels_of(
                "release", "release", 'policyctl_alias_info{server=~"$server",model=~"$model",alias=~"$alias"}'
            ),
        ],
        annotations=[parts.SWITCHES, parts.FAILED_MOVES, parts.ALERTS],
    )
    for panel in (
        states(
            "Which release",
            "The release that each alias named, over time.",
            Query(f"policyctl_alias_info{{{RELEASES}}}", _WHO),
        ),
        *_traffic(),
        *_time(),
        *_prober(),
    ):
        made = made.with_panel(panel)
    return made


def _traffic() -> tuple[Panel, ...]:
    return (
        lines(
            "Requests",
            "Answered, by release.",
            Query(f"release:nv_inference_success:rate1m{{{RELEASES}}}", _WHO),
            unit=units.RequestsPerSecond,
            width=8,
        ),
        lines(
            "Failed requests",
            "By release; what clients took back does not count.",
            Query(f"release:nv_inference_failures:rate1m{{{RELEASES}}}", _WHO),
            unit=units.RequestsPerSecond,
            width=8,
        ),
        lines(
            "Failures by reason",
            "REJECTED: the queue was full or its time was up. CANCELED: the client took it back. BACKEND: computing"
            " failed. OTHER: before it got there.",
            Query(
                "sum by (alias, reason) (label_replace("
                f'rate(nv_inference_request_failure{{{SERVER}}}[$__rate_interval]), "served", "$1", "model", "(.*)")'
                f" * on (server, served) group_left (model, alias) alias:policyctl_alias_info:max{{{ALIASES}}})",
                "{{alias}} {{reason}}",
            ),
            unit=units.RequestsPerSecond,
            width=8,
        ),
    )


def _time() -> tuple[Panel, ...]:
    return (
        lines(
            "Where the time goes",
            "Mean time in the server, from a request's arrival to its answer, and of that in the queue and computing.",
            Query(f"release:nv_inference_request_seconds:mean1m{{{RELEASES}}}", f"all {_WHO}"),
            Query(f"release:nv_inference_queue_seconds:mean1m{{{RELEASES}}}", f"queue {_WHO}"),
            Query(f"release:nv_inference_compute_infer_seconds:mean1m{{{RELEASES}}}", f"compute {_WHO}"),
            unit=units.Seconds,
        ),
        lines(
            "Batches",
            "Observations in one call of the backend, on average.",
            Query(f"release:nv_inference_batch_size:mean1m{{{RELEASES}}}", _WHO),
        ),
    )


def _prober() -> tuple[Panel, ...]:
    return (
        lines(
            "Latency, as the prober sees it",
            "Percentiles of what a golden observation waited for its action.",
            Query(f"release:policyctl_probe_duration_seconds:p50_1m{{{RELEASES}}}", f"p50 {_WHO}"),
            Query(f"release:policyctl_probe_duration_seconds:p99_1m{{{RELEASES}}}", f"p99 {_WHO}"),
            unit=units.Seconds,
        ),
        histogram(
            "Latency, every answer",
            "How many of the prober's answers took how long.",
            Query(
                f"sum by (le) (increase(policyctl_probe_duration_seconds_bucket{{{ALIASES}}}[$__rate_interval]))",
                "{{le}}",
                buckets=True,
            ),
        ),
        lines(
            "What the prober heard",
            "answered: the golden action. wrong: another one. failed: none.",
            Query(
                f"sum by (alias, outcome) (rate(policyctl_probe_requests_total{{{ALIASES}}}[$__rate_interval]))",
                "{{alias}} {{outcome}}",
            ),
            unit=units.RequestsPerSecond,
        ),
        lines(
            "Loaded anew",
            "How often the prober loaded an alias again because it did not answer.",
            Query(
                f"sum by (alias) (increase(policyctl_model_reloads_total{{{ALIASES}}}[$__rate_interval]))", "{{alias}}"
            ),
        ),
    )
