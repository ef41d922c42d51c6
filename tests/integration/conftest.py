"""Fixtures for tests on the real Triton, and what lets two workers run them at once."""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "containers"))

from embedded import Embedded, embedded

_RUN = "PYTEST_XDIST_TESTRUNUID"
"""What xdist puts into the environment of a worker, and so of everything that a worker starts."""


@pytest.fixture(scope="session", autouse=True)
def _settings_of_all() -> Iterator[None]:
    """Servers probe five times a second, and answer HTTP also where no compiler built their guard.

    Commands have time for each request of theirs, also on a busy machine. A server that somebody else runs on this
    machine may hold the usual ports.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLICYCTL_PROBER__INTERVAL_S", "0.2")
        patch.setenv("POLICYCTL_SERVER__HTTP", "on")
        patch.setenv("POLICYCTL_SERVER__TIMEOUT_S", "60")
        patch.setenv("POLICYCTL_LOCK_WAIT_S", "60")
        patch.setenv("POLICYCTL_SERVER__CONTROL_METRICS_PORT", "0")
        yield


@pytest.fixture
def server(tmp_path) -> Iterator[Embedded]:
    """A repository with nothing in it, not served yet."""
    with embedded(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Embedded]:
    """Releases 1.0.0 and 1.1.0 of walker published, 1.0.0 in production, served."""
    with embedded(tmp_path_factory.mktemp("served")) as found:
        found.publish("1.0.0", 1)
        found.publish("1.1.0", 2)
        found.start()
        found.run("promote", "walker", "1.0.0")
        yield found


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """A test that is marked `alone` runs while no other worker runs any."""
    with _turn(alone=item.get_closest_marker("alone") is not None):
        return (yield)


@contextmanager
def _turn(*, alone: bool) -> Iterator[None]:
    """Hold the machine together with other workers, or alone.

    Everyone passes a gate, where whoever wants to be alone waits for those
    within: nobody slips in before.
    """
    run = os.environ.get(_RUN)
    if run is None:
        yield
        return
    with ExitStack() as stack:
        inside, gate = (stack.enter_context(lock.open("ab")) for lock in _locks(run))
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(inside, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield


def pytest_configure(config: pytest.Config) -> None:
    """Name this run of the tests here, so that what its workers left can be told from anybody else's."""
    if not hasattr(config, "workerinput") and hasattr(config.option, "testrunuid"):
        config.option.testrunuid = config.option.testrunuid or uuid.uuid4().hex


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """When all workers have gone, end what one that crashed left running, and remove the locks."""
    run = getattr(session.config.option, "testrunuid", None)
    if run is None or hasattr(session.config, "workerinput"):
        return
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(_RUN) == run:
                process.kill()
    for lock in _locks(run):
        lock.unlink(missing_ok=True)


def _locks(run: str) -> tuple[Path, Path]:
    folder = Path(tempfile.gettempdir())
    return folder / f"policyctl-{run}.inside", folder / f"policyctl-{run}.gate"
