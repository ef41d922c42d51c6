"""Whether a balancer should send requests here: what `/readyz` next to the metrics says.

A server joins once every alias is served as named, and it stays as long as any
alias answers its golden questions. One that left for less would turn a release
that no server can serve into an outage of all others (`services.show.health`
calls that *degraded*).
"""

from __future__ import annotations

from typing import Final

from policyctl.domain.probes import ProbeOutcome
from policyctl.domain.state import State
from policyctl.services.observed import Seen

_NOT_RIGHT: Final = frozenset({ProbeOutcome.WRONG, ProbeOutcome.FAILED})
"""An alias that was not asked since it was loaded answered its golden set then."""


def lacks(state: State, seen: Seen) -> str:
    """Why this server should get no requests, as a phrase; empty where it should.

    It reads nothing and asks nobody: the prober asks every alias once a second.

    Args:
        state: What the journal says.
        seen: What the supervisor and its prober have seen.
    """
    if not seen.up:
        return "no server is announced"
    if seen.behind:
        return seen.behind
    # A release that drains is asked by those alone whose episodes began on it.
    named = [key for key, each in state.aliases.items() if each.drain_s is None]
    silent = [key for key in named if key in seen.refused or seen.last.get(key) in _NOT_RIGHT]
    return "no alias answers its golden question" if named and len(silent) == len(named) else ""
