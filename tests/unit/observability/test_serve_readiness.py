"""Readiness: when a balancer should send requests to a server, and when it should not."""

from __future__ import annotations

import pytest
import urllib3

from policyctl.adapters.exporter import exporting
from policyctl.domain.probes import ProbeOutcome
from policyctl.services.rollout.promote import promote
from policyctl.services.supervise.readiness import lacks

KEY = ("walker", "production")


@pytest.fixture
def up(watched):
    """A server that is announced, with walker 1.0.0 in production."""
    watched.observed.server_is_up(1)
    watched.known.state()
    return watched


def missing(watched) -> str:
    return lacks(watched.known.last.state, watched.observed.seen())


def test_a_server_that_is_not_announced_is_not_ready(watched) -> None:
    """It loads and certifies before that; and it is gone for a moment when it is started again."""
    assert missing(watched) == "no server is announced"
    watched.observed.server_is_up(1)
    assert missing(watched) == ""
    watched.observed.server_is_gone()
    assert missing(watched) == "no server is announced"


@pytest.mark.parametrize("outcome", [ProbeOutcome.WRONG, ProbeOutcome.FAILED])
def test_a_server_that_gives_no_golden_answer_is_not_ready_until_it_does(up, outcome: ProbeOutcome) -> None:
    """The prober's last look counts; before the first one, the certification of the load does."""
    assert missing(up) == ""
    up.observed.probed(KEY, outcome, 0.001)
    assert missing(up) == "no alias answers its golden question"
    up.observed.probed(KEY, ProbeOutcome.ANSWERED, 0.001)
    assert missing(up) == ""


def test_a_server_started_again_is_judged_by_what_it_does_itself(up) -> None:
    """What the server before it answered says nothing of this one."""
    up.observed.probed(KEY, ProbeOutcome.FAILED, 0.0)
    up.observed.server_starts()
    assert missing(up) == ""


def test_a_server_stays_as_long_as_one_alias_answers(up) -> None:
    """A release that no server can serve must not take every other one with it."""
    promote(up.world.control, model="walker", release="1.1.0", alias="staging")
    state = up.known.state()
    up.observed.refused[KEY] = state.aliases[KEY].placement
    assert missing(up) == ""
    up.observed.probed(("walker", "staging"), ProbeOutcome.FAILED, 0.0)
    assert missing(up) == "no alias answers its golden question"


def test_the_listener_answers_for_balancers_and_for_what_restarts_processes() -> None:
    """/livez while the process lives; /readyz with 503 and the reason, or 200."""
    why = ["no server is announced"]

    def get(path: str) -> tuple[int, bytes]:
        answer = urllib3.request("GET", f"http://{address}{path}")
        return answer.status, answer.data

    with exporting(lambda: (), lacks=lambda: why[0], host="127.0.0.1", port=0) as address:
        assert get("/livez") == (200, b"The process answers.\n")
        assert get("/readyz") == (503, b"Not ready: no server is announced.\n")
        why[0] = ""
        assert get("/readyz") == (200, b"Ready.\n")
