"""The files of `alerts/`: every alert is tested both ways, explained, and about metrics that exist."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from policyctl.domain.metrics import CATALOGUE

ROOT = Path(__file__).parents[3]
ALERTS = ROOT / "alerts"
RUNBOOKS = sorted((ROOT / "docs" / "runbooks").glob("*.md"))
TESTS = sorted((ALERTS / "tests").glob("*.yml"))
RULES = [
    rule
    for path in sorted((ALERTS / "rules").glob("*.yml"))
    for group in YAML(typ="safe").load(path.read_text())["groups"]
    for rule in group["rules"]
]
BY_NAME = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
OTHERS = {
    *("up", "ALERTS", "prometheus_rule_evaluation_failures_total"),
    *("policyctl_api_requests_total", "policyctl_api_request_duration_seconds"),
    "policyctl_refused_requests_total",  # by the Python-based backends, on Triton's page
    *(f"nv_inference_request_{what}" for what in ("success", "failure", "duration_us")),
    *(f"nv_inference_{what}" for what in ("count", "exec_count", "pending_request_count")),
    *("nv_inference_queue_duration_us", "nv_inference_compute_infer_duration_us", "nv_cpu_utilization"),
}
"""What Prometheus, Triton 2.51 and the control API export, of what is asked for here."""

needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="Prometheus is not installed: apt install prometheus"
)
needs_amtool = pytest.mark.skipif(
    not shutil.which("amtool"), reason="Alertmanager is not installed: apt install prometheus-alertmanager"
)


def names_in(expr: str) -> set[str]:
    """The metrics that a query asks for."""
    without = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]', " ", expr)
    without = re.sub(r"\b(by|on|ignoring|group_left|without)\s*\([^)]*\)", " ", without)
    words = re.findall(r"[a-zA-Z_][a-zA-Z0-9_:]*(?!\s*\(|[a-zA-Z0-9_:])", without)
    return {word for word in words if "_" in word or word in OTHERS or ":" in word}


def unknown(expr: str) -> set[str]:
    """Those of them that nobody exports or records."""
    known = OTHERS | RECORDED | CATALOGUE.keys()
    plain = {re.sub(r"_(bucket|count|sum)$", "", name) if name not in known else name for name in names_in(expr)}
    return plain - known


def test_every_alert_says_how_bad_about_what_and_where_to_read_on() -> None:
    """Severity and scope to route by; a summary that names model and alias where there is one; a runbook."""
    for name, rule in BY_NAME.items():
        labels, notes = rule["labels"], rule["annotations"]
        assert labels["severity"] in {"critical", "warning"}, name
        assert notes.keys() == {"summary", "description", "runbook_url"}, name
        if labels["scope"] in {"model", "answers"}:
            assert "{{ $labels.model }} ({{ $labels.alias }})" in notes["summary"], name
        if labels["scope"] != "monitoring":
            assert "{{ $labels.server }}" in notes["summary"] + notes["description"], name


def test_every_alert_has_its_runbook_and_every_runbook_an_alert() -> None:
    """The page is there, and the heading that the link jumps to."""
    headings = {
        f"docs/runbooks/{p.name}#{h.lower()}"
        for p in RUNBOOKS
        for h in re.findall(r"^## (Policy\w+)$", p.read_text(), re.M)
    }
    assert {rule["annotations"]["runbook_url"] for rule in BY_NAME.values()} == headings
    assert all(url["annotations"]["runbook_url"].endswith(f"#{name.lower()}") for name, url in BY_NAME.items())


def test_every_link_of_the_pages_leads_somewhere() -> None:
    """Files and headings of runbooks, alerts and dashboards."""
    for page in (*RUNBOOKS, ROOT / "docs" / "alerts.md", ROOT / "docs" / "dashboards.md"):
        for path, anchor in re.findall(r"\]\(([^)#:]*)(?:#([\w-]+))?\)", page.read_text()):
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), f"{page.name}: {path}"
            found = {
                re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-")
                for h in re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            }
            assert not anchor or anchor in found, f"{page.name}: {path}#{anchor}"


def test_the_catalogue_names_every_alert_as_it_is() -> None:
    """Name, severity and how long it must hold, as the rules say."""
    text = (ROOT / "docs" / "alerts.md").read_text()
    shown = {m[1]: (m[2], m[3]) for m in re.finditer(r"^\| \[(\w+)\]\([^)]*\) \| (\w+) \| ([\w ]+) \|", text, re.M)}
    assert shown == {n: (r["labels"]["severity"], r.get("for", "at once")) for n, r in BY_NAME.items()}


def test_every_alert_has_a_case_that_fires_it_and_one_that_must_not() -> None:
    """In `alerts/tests`; the one that must not has data for the alert to look at."""
    seen: dict[str, set[bool]] = defaultdict(set)
    for path in TESTS:
        for case in YAML(typ="safe").load(path.read_text())["tests"]:
            assert case["input_series"], case["name"]
            for check in case["alert_rule_test"]:
                seen[check["alertname"]].add(bool(check["exp_alerts"]))
    assert seen == {name: {True, False} for name in BY_NAME}


def test_rules_ask_only_for_metrics_that_exist() -> None:
    """A metric that is misspelt or renamed has no data, and without data no alert fires."""
    assert {
        rule.get("alert", rule.get("record")): unknown(rule["expr"]) for rule in RULES if unknown(rule["expr"])
    } == {}


def test_a_misspelt_metric_would_be_seen() -> None:
    """A search for unknown names must find one."""
    assert unknown('sum by (server, le) (rate(policyctl_probe_duration_secnds_bucket{le="0.05"}[5m])) > 0.1') == {
        "policyctl_probe_duration_secnds"
    }
    assert unknown("alias:nv_inference_failures:ratio_rate7m > 1") == {"alias:nv_inference_failures:ratio_rate7m"}


def test_objectives_are_asked_over_the_same_limits() -> None:
    """The bucket that the latency objective counts by is one that the prober's histogram has."""
    bounds = {repr(bound) for bound in CATALOGUE["policyctl_probe_duration_seconds"].buckets}
    asked = {le for rule in RULES for le in re.findall(r'le="([^"]+)"', rule["expr"])}
    assert asked
    assert asked <= bounds


def test_every_command_of_a_runbook_is_understood(parse) -> None:
    """At three in the morning nobody looks up how a command is called now."""
    found = 0
    for page in RUNBOOKS:
        text = page.read_text()
        for line in (*re.findall(r"^ *(policyctl .*)$", text, re.M), *re.findall(r"`(policyctl [^`]*)`", text)):
            arguments = shlex.split(line)[1:]
            if arguments == ["serve"] or arguments == ["api"]:
                continue
            parse(arguments)
            found += 1
    assert found > 20


def run(*command: str) -> str:
    """What a tool says; a refusal fails the test."""
    # A tool lives for seconds: most of what its garbage collector would do is wasted.
    environment = {**os.environ, "GOGC": "400", "GOMAXPROCS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_promtool
def test_prometheus_understands_the_configuration() -> None:
    """The configuration, and every rule file that it names."""
    said = run("promtool", "check", "config", str(ALERTS / "prometheus.yml"))
    assert all(f"/{path.name}" in said for path in (ALERTS / "rules").glob("*.yml"))


@needs_promtool
@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_only_then(path: Path) -> None:
    """The cases of `alerts/tests`, by Prometheus' own tool."""
    run("promtool", "test", "rules", str(path))


@needs_amtool
def test_alertmanager_understands_the_configuration_and_routes_by_it() -> None:
    """Every severity reaches a receiver."""
    path = str(ALERTS / "alertmanager.yml")
    run("amtool", "check-config", path)
    for severity in ("critical", "warning"):
        said = run("amtool", "config", "routes", "test", f"--config.file={path}", f"severity={severity}")
        assert "webhook" in said.splitlines()


def test_no_configuration_holds_a_secret_or_listens_to_the_world() -> None:
    """Addresses are this machine's, and the token is a file."""
    text = "".join(p.read_text() for p in (*ALERTS.glob("*.yml"), *ALERTS.glob("targets/*.yml")))
    assert set(re.findall(r"\d+\.\d+\.\d+\.\d+", text)) == {"127.0.0.1"}
    assert "credentials_file:" in text
    assert not re.search(r"\b(credentials|password|bearer_token):", text)
