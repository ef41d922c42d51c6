"""The control plane: moves, gates, integrity, settings, the API, and whether all of it is seen."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import units

from boards import parts
from boards.parts import GOOD_IS_ONE, GOOD_IS_ZERO, SERVER, Panel, Query, figure, lines, rows


def build() -> dashboard.Dashboard:
    """The control plane."""
    made = parts.board(
        "policyctl-control",
        "policyctl: control plane",
        "What policyctl itself does, and what it finds.",
        variables=[
            parts.labels_of("model", "model", 'policyctl_alias_info{server=~"$server"}'),
            parts.labels_of("alias", "alias", 'policyctl_alias_info{server=~"$server",model=~"$model"}'),
        ],
        annotations=[parts.SWITCHES, parts.FAILED_MOVES],
    )
    for panel in (*_now(), *_moves(), *_repository(), *_api(), *_watching()):
        made = made.with_panel(panel)
    return made


def _now() -> tuple[Panel, ...]:
    return (
        figure(
            "Journal",
            "Whether its chain is whole. Nothing is moved while it is not.",
            Query(f"min(policyctl_journal_intact{{{SERVER}}})", instant=True),
            steps=GOOD_IS_ONE,
            words={"0": "BROKEN", "1": "intact"},
        ),
        figure(
            "Folders not as published",
            "What the scrub finds wrong now.",
            Query(f"sum(policyctl_integrity_wrong{{{SERVER}}})", instant=True),
            steps=GOOD_IS_ZERO,
        ),
        figure(
            "Last whole pass",
            "When the scrub had last read every published file.",
            Query(f"max(policyctl_integrity_last_pass_timestamp_seconds{{{SERVER}}}) * 1000", instant=True),
            unit=units.DateTimeFromNow,
        ),
        figure(
            "Free on disk",
            "On the repository's file system.",
            Query(f"min(policyctl_disk_free_bytes{{{SERVER}}})", instant=True),
            unit=units.BytesIEC,
            steps=((None, "red"), (1 << 30, "green")),
        ),
        figure(
            "Settings refused",
            "Changed settings files that were not valid, in the time that is shown.",
            Query(
                f'sum(increase(policyctl_settings_reloads_total{{{SERVER},result="refused"}}[$__range]))', instant=True
            ),
            steps=GOOD_IS_ZERO,
        ),
        figure(
            "Version",
            "Of policyctl.",
            Query(f"count by (version) (policyctl_build_info{{{SERVER}}})", "{{version}}", instant=True),
            name=True,
        ),
    )


def _moves() -> tuple[Panel, ...]:
    return (
        lines(
            "Moves",
            "That ended, by kind and outcome.",
            Query(
                f"sum by (kind, outcome) (increase(policyctl_moves_total{{{parts.ALIASES}}}[$__rate_interval]))",
                "{{kind}} {{outcome}}",
            ),
            width=8,
        ),
        lines(
            "How long moves take",
            "From a move's intent to its outcome, of all there were.",
            Query(
                f"histogram_quantile(0.5, sum by (kind, le) (policyctl_move_duration_seconds_bucket{{{SERVER}}}))",
                "p50 {{kind}}",
            ),
            Query(
                f"histogram_quantile(0.95, sum by (kind, le) (policyctl_move_duration_seconds_bucket{{{SERVER}}}))",
                "p95 {{kind}}",
            ),
            unit=units.Seconds,
            width=8,
        ),
        lines(
            "Verdicts",
            "Of the gates.",
            Query(
                "sum by (gate, verdict) (increase("
                'policyctl_gate_verdicts_total{server=~"$server",model=~"$model"}[$__rate_interval]))',
                "{{gate}} {{verdict}}",
            ),
            width=8,
        ),
    )


def _repository() -> tuple[Panel, ...]:
    return (
        lines(
            "Scrub",
            "Files read a second, and times that something was found wrong.",
            Query(f"rate(policyctl_integrity_files_checked_total{{{SERVER}}}[$__rate_interval])", "read {{server}}"),
            Query(f"increase(policyctl_integrity_failures_total{{{SERVER}}}[$__rate_interval])", "wrong {{server}}"),
            width=8,
        ),
        lines(
            "Journal",
            "Its records.",
            Query(f"policyctl_journal_records{{{SERVER}}}", "{{server}}"),
            width=8,
        ),
        lines(
            "Settings",
            "Changed files that were noticed, by what became of them.",
            Query(
                f"sum by (result) (increase(policyctl_settings_reloads_total{{{SERVER}}}[$__rate_interval]))",
                "{{result}}",
            ),
            width=8,
        ),
        lines(
            "Starts of the server, and reloads of models",
            "By the supervisor. Both are rare: each was an outage.",
            Query(f"increase(policyctl_server_starts_total{{{SERVER}}}[$__rate_interval])", "started {{server}}"),
            Query(
                f"sum by (model, alias) (increase(policyctl_model_reloads_total{{{parts.ALIASES}}}[$__rate_interval]))",
                "reloaded {{model}} ({{alias}})",
            ),
        ),
        rows(
            "Certified",
            "When what each alias names was last certified by its golden set.",
            Query(f"time() - policyctl_alias_certified_timestamp_seconds{{{parts.ALIASES}}}", columns=True),
            columns={"server": "server", "model": "model", "alias": "alias", "Value": "seconds ago"},
            width=12,
        ),
    )


def _api() -> tuple[Panel, ...]:
    return (
        lines(
            "API: requests",
            "To the control API, by what it answered.",
            Query(
                "sum by (method, route, status) (rate(policyctl_api_requests_total[$__rate_interval]))",
                "{{method}} {{route}} {{status}}",
            ),
            unit=units.RequestsPerSecond,
        ),
        lines(
            "API: latency",
            "p95, by route.",
            Query(
                "histogram_quantile(0.95, sum by (route, le) ("
                "rate(policyctl_api_request_duration_seconds_bucket[$__rate_interval])))",
                "{{route}}",
            ),
            unit=units.Seconds,
        ),
    )


def _watching() -> tuple[Panel, ...]:
    return (
        lines(
            "Targets",
            "1 where Prometheus gets metrics.",
            Query('up{job=~"policyctl-.*"}', "{{job}} {{server}}"),
        ),
        lines(
            "Rules that cannot be computed",
            "0, or alerts are blind.",
            Query(
                'sum by (rule_group) (increase(prometheus_rule_evaluation_failures_total{rule_group=~".*;policyctl-.*"}'
                "[$__rate_interval]))",
                "{{rule_group}}",
            ),
        ),
    )
