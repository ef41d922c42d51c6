"""docs/metrics.md and `policyctl metrics`: what the catalogue says, and what the commands print."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from policyctl.adapters import endpoint as endpoints
from policyctl.adapters.exporter import exporting
from policyctl.domain.metrics import CATALOGUE, Family

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"
AGREED = """
    build_info{version} alias_info{model,alias,served,release,slot,format}
    alias_certified_timestamp_seconds{model,alias} alias_refused{model,alias}
    moves_total{model,alias,kind,outcome} move_duration_seconds{kind}
    move_unfinished_timestamp_seconds{model,alias,kind} gate_verdicts_total{model,gate,verdict}
    probe_requests_total{model,alias,outcome} probe_duration_seconds{model,alias}
    model_reloads_total{model,alias} server_starts_total server_up server_resident_bytes{part}
    integrity_files_checked_total integrity_failures_total integrity_wrong
    integrity_last_pass_timestamp_seconds settings_reloads_total{result}
    settings_reload_timestamp_seconds journal_records journal_intact unwritten_total{what} disk_free_bytes
    fleet_store_up fleet_read_timestamp_seconds fleet_generation{model,alias} fleet_reached_generation{model,alias}
"""
"""What alerts and dashboards rely on."""


def _written(family: Family) -> str:
    labels = f"{{{','.join(family.labels)}}}" if family.labels else ""
    return family.name.removeprefix("policyctl_") + labels


def test_the_catalogue_is_what_alerts_and_dashboards_rely_on() -> None:
    """No name and no label was changed, added or lost without this list."""
    assert [_written(f) for f in CATALOGUE.values()] == AGREED.split()


def test_the_page_has_the_catalogue_as_it_is() -> None:
    """Each family, its type, its labels and its words, in order, and no other."""
    rows = re.findall(r"^\| `(policyctl_\w+)` \| (\w+) \| (.*?) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    expected = [(f.name, f.kind.value, ", ".join(f"`{x}`" for x in f.labels), f.help) for f in CATALOGUE.values()]
    assert rows == expected


@pytest.fixture
def asked(watched, monkeypatch):
    """The command line, on the watched repository."""
    monkeypatch.setenv("POLICYCTL_REPOSITORY", str(watched.world.root))
    return watched


def test_every_command_of_the_page_runs(asked, run) -> None:
    """Without a server too: then the journal alone speaks, and that is said."""
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for line in block.splitlines():
        done = run(*shlex.split(line)[1:])
        assert (done.code, bool(done.out)) == (0, True)
        assert ("journal alone" in done.err) == ("--catalogue" not in line)
    families = {f["name"]: f["samples"] for f in run("metrics", "--json").document["families"]}
    assert families["policyctl_server_up"][0]["value"] == 0
    assert families["policyctl_alias_info"][0]["labels"]["release"] == "1.0.0"


def test_the_running_server_is_asked_where_there_is_one(asked, run) -> None:
    """What only its supervisor knows is shown."""
    repository = asked.world.control.repository
    assert asked.prober.probe()
    with exporting(asked.metrics.collect, host="127.0.0.1", port=0) as address:
        endpoints.write(repository, replace(endpoints.read(repository), control_metrics=address))
        document = run("metrics", "--json").document
    assert document["source"] == address
    (answered,) = [
        s["value"]
        for f in document["families"]
        for s in f["samples"]
        if f["name"] == "policyctl_probe_requests_total" and s["labels"]["outcome"] == "answered"
    ]
    assert answered == 1
    gone = run("metrics", "--json")
    assert (gone.code, gone.document["error"]["code"]) == (6, "server")
