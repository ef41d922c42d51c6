"""What an application imports to ask a served policy for actions.

.. code-block:: python

    from policyctl.client import PolicyClient

    with PolicyClient("walker", url="127.0.0.1:8001", protocol="grpc", deadline_s=0.05) as client:
        action = client.act(observation)
        environment.step(action.value)
        log(action.release, action.round_trip_us)

It promises that an action is never late (an error is raised instead), never
one of an unknown release or of one that it does not require, never read by another contract than that of the
release that answered, and, where it was drawn at random, drawn again from the
same seed. It needs NumPy and Triton's client, not a training framework.

How it is built: `exchange` decides what to ask and what an answer means and
does no I/O; `grpc_wire`, `http_wire` and `local_wire` carry one call each; `base` is the
surface of both clients, and `sync` and `aio` differ from it in waiting alone.
"""

from policyctl.client.action import Action, ServerTiming, TimingSource
from policyctl.client.aio import AsyncPolicyClient
from policyctl.client.episode import Episode
from policyctl.client.episode_options import EpisodeOptions, Fallback, OnSwitch
from policyctl.client.errors import (
    DeadlineError,
    EpisodeInterruptedError,
    IncompatibleReleaseError,
    NotServedError,
    OverloadedError,
    RefusedError,
    StaleError,
    UnknownReleaseError,
    UnreachableError,
)
from policyctl.client.sync import PolicyClient
from policyctl.domain.protocol import Protocol

__all__ = [
    "Action",
    "AsyncPolicyClient",
    "DeadlineError",
    "Episode",
    "EpisodeInterruptedError",
    "EpisodeOptions",
    "Fallback",
    "IncompatibleReleaseError",
    "NotServedError",
    "OnSwitch",
    "OverloadedError",
    "PolicyClient",
    "Protocol",
    "RefusedError",
    "ServerTiming",
    "StaleError",
    "TimingSource",
    "UnknownReleaseError",
    "UnreachableError",
]
