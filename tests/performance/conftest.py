"""A served repository whose backends may be slowed down."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "integration"))

from embedded import Embedded, allow_faults, embedded


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Embedded]:
    """Releases 1.0.0 and 1.1.0 of walker, the same policy twice; 1.0.0 in production."""
    with pytest.MonkeyPatch.context() as patch, embedded(tmp_path_factory.mktemp("performance"), apart=True) as found:
        allow_faults(patch)
        patch.setenv("POLICYCTL_SERVING__NATIVE", "off")  # the native backend cannot be slowed down
        for release in ("1.0.0", "1.1.0"):
            found.publish(release, 1)
        found.start()
        found.run("promote", "walker", "1.0.0")
        yield found
