"""The dashboards: the committed files are what `grafana/build.py` makes, and they ask for metrics that exist."""

from __future__ import annotations

import json
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from test_alert_rules import ROOT, unknown

GRAFANA = ROOT / "grafana"
BOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))
each_board = pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    """A dashboard as it is committed."""
    return json.loads(path.read_text())


def queries(board: Any) -> list[str]:
    """Every query of a dashboard."""
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked += [annotation["expr"] for annotation in board["annotations"]["list"]]
    return asked + [v["query"]["query"] for v in board["templating"]["list"] if v["type"] == "query"]


def test_the_committed_dashboards_are_what_the_boards_describe() -> None:
    """Change grafana/boards/*.yml and run grafana/build.py; nothing else writes these files."""
    pytest.importorskip("grafana_foundation_sdk", reason="grafana-foundation-sdk is not installed")
    sys.path.insert(0, str(GRAFANA))
    import build

    assert {path.stem: path.read_text() for path in BOARDS} == build.documents()


@each_board
def test_a_dashboard_asks_only_for_metrics_that_exist(path: Path) -> None:
    """Exported by Triton, policyctl or Prometheus, or recorded by the rules."""
    assert {query: unknown(query) for query in queries(read(path)) if unknown(query) - {"label_values"}} == {}


@each_board
def test_every_panel_explains_itself_and_names_its_datasource_by_the_variable(path: Path) -> None:
    """So the dashboards work wherever they are imported."""
    board = read(path)
    for panel in board["panels"]:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["options"], panel["title"]
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert [v["name"] for v in board["templating"]["list"]][:4] == ["datasource", "server", "model", "alias"]


@each_board
def test_panels_lie_beside_each_other(path: Path) -> None:
    """No two overlap, none sticks out, and no two have the same number."""
    panels = read(path)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in combinations([p["gridPos"] for p in panels], 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert apart_x or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
    assert all(p["gridPos"]["x"] + p["gridPos"]["w"] <= 24 for p in panels)


def test_provisioning_names_the_datasource_and_a_folder() -> None:
    """What Grafana reads at its start."""
    (source,) = YAML(typ="safe").load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    (provider,) = YAML(typ="safe").load((GRAFANA / "provisioning/dashboards/policyctl.yml").read_text())["providers"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    assert provider["options"]["path"] in (ROOT / "docs" / "dashboards.md").read_text()
    assert len({read(path)["uid"] for path in BOARDS}) == len(BOARDS) == 4
