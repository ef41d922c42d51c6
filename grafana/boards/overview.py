"""The first look: is everything served, quickly and rightly, and if not, what and where."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import units

from boards import parts
from boards.parts import ALIASES, GOOD_IS_ONE, GOOD_IS_ZERO, SERVER, Panel, Query, figure, lines, rows


def build() -> dashboard.Dashboard:
    """The service overview."""
    made = parts.board(
        "policyctl-overview",
        "policyctl: service",
        "All models of all servers.",
        variables=[
            parts.labels_of("model", "model", 'policyctl_alias_info{server=~"$server"}'),
            parts.labels_of("alias", "alias", 'policyctl_alias_info{server=~"$server",model=~"$model"}'),
        ],
        annotations=[parts.SWITCHES, parts.FAILED_MOVES, parts.ALERTS],
    )
    for panel in (*_now(), *_over_time(), *_machine()):
        made = made.with_panel(panel)
    return made


def _now() -> tuple[Panel, ...]:
    named = {"alertname": "alert", "severity": "severity", "server": "server", "model": "model", "alias": "alias"}
    info = {"server": "server", "model": "model", "alias": "alias", "release": "release", "slot": "slot"}
    return (
        figure(
            "Servers",
            "Whether every server's tritonserver is announced and answers.",
            Query(f"min(policyctl_server_up{{{SERVER}}})", instant=True),
            steps=GOOD_IS_ONE,
            words={"0": "DOWN", "1": "up"},
        ),
        figure(
            "Aliases served",
            "Aliases that name a release and are not refused.",
            Query(
                f"count(policyctl_alias_info{{{ALIASES}}}) - sum(policyctl_alias_refused{{{ALIASES}}})", instant=True
            ),
        ),
        figure(
            "Refused",
            "Aliases that are not served: not intact, not signed, or wrong answers.",
            Query(f"sum(policyctl_alias_refused{{{ALIASES}}})", instant=True),
            steps=GOOD_IS_ZERO,
        ),
        figure(
            "Wrong answers",
            "Answers to the prober that were not the golden ones, in the time that is shown.",
            Query(
                f'sum(increase(policyctl_probe_requests_total{{{ALIASES},outcome="wrong"}}[$__range]))', instant=True
            ),
            steps=GOOD_IS_ZERO,
        ),
        figure(
            "Folders not as published",
            "What the scrub finds wrong on disk now.",
            Query(f"sum(policyctl_integrity_wrong{{{SERVER}}})", instant=True),
            steps=GOOD_IS_ZERO,
        ),
        figure(
            "Alerts",
            "Alerts of policyctl that fire now.",
            Query('count(ALERTS{alertname=~"Policy.*",alertstate="firing"}) or vector(0)', instant=True),
            steps=GOOD_IS_ZERO,
        ),
        rows(
            "What is served",
            "The release that each alias names, and its slot, which is Triton's version.",
            Query(f"policyctl_alias_info{{{ALIASES}}}", columns=True),
            columns={**info, "served": "Triton model", "format": "format"},
            width=12,
        ),
        rows(
            "Alerts that fire",
            "docs/runbooks has a page for each.",
            Query('ALERTS{alertname=~"Policy.*",alertstate="firing"}', columns=True),
            columns=named,
            width=12,
        ),
    )


def _over_time() -> tuple[Panel, ...]:
    who = "{{model}} ({{alias}})"
    return (
        lines(
            "Requests",
            "Answered by each alias, the prober's own included.",
            Query(f"sum by (model, alias) (release:nv_inference_success:rate1m{{{ALIASES}}})", who),
            unit=units.RequestsPerSecond,
        ),
        lines(
            "Failed",
            "Share of requests that failed, of the last 5 min, but for those clients took back. 0.1 % may.",
            Query(f"alias:nv_inference_failures:ratio_rate5m{{{ALIASES}}}", who),
            unit=units.PercentUnit,
            limit=0.001,
        ),
        lines(
            "Latency",
            "What the prober waited for an action, over gRPC, in line with all other clients.",
            Query(f"release:policyctl_probe_duration_seconds:p50_1m{{{ALIASES}}}", f"p50 {who} {{{{release}}}}"),
            Query(f"release:policyctl_probe_duration_seconds:p99_1m{{{ALIASES}}}", f"p99 {who} {{{{release}}}}"),
            unit=units.Seconds,
        ),
        lines(
            "Error budgets",
            "How fast they burn: 1 uses the whole budget in the period of the objective, 14.4 pages.",
            Query(f"alias:nv_inference_failures:ratio_rate1h{{{ALIASES}}} / 0.001", f"errors {who}"),
            Query(f"alias:policyctl_probe_slow:ratio_rate1h{{{ALIASES}}} / 0.01", f"slow {who}"),
            limit=14.4,
        ),
    )


def _machine() -> tuple[Panel, ...]:
    return (
        lines(
            "Waiting requests",
            "In Triton's queues.",
            Query(f"sum by (server, model) (nv_inference_pending_request_count{{{SERVER}}})", "{{model}}"),
            width=8,
        ),
        lines(
            "Memory",
            "Resident memory of tritonserver and of its backends' processes.",
            Query(f"policyctl_server_resident_bytes{{{SERVER}}}", "{{part}} {{server}}"),
            unit=units.BytesIEC,
            width=8,
        ),
        lines(
            "Processor",
            "Of the machine, as Triton sees it.",
            Query(f"nv_cpu_utilization{{{SERVER}}}", "{{server}}"),
            unit=units.PercentUnit,
            width=8,
        ),
    )
