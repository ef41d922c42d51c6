"""Every package that is pinned can be installed with the oldest Python that the project allows."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distributions
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]


def test_every_pinned_package_takes_the_oldest_python_that_is_allowed() -> None:
    """Debian's own is some patch releases behind: a pin that wants a later one ends the first `make` there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = re.match(r">=([\d.]+)", project["requires-python"])
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    pinned = {canonicalize_name(name) for name in pins}
    wanted = {
        each.name: SpecifierSet(each.metadata["Requires-Python"] or "")
        for each in distributions()
        if canonicalize_name(each.name) in pinned
    }
    assert oldest is not None
    assert len(wanted) > 100
    assert {name: str(wants) for name, wants in wanted.items() if oldest[1] not in wants} == {}
