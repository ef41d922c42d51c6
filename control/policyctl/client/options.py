"""What both clients do with their arguments before anything is asked."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence

from policyctl import lane
from policyctl.domain.names import CANDIDATE, check_alias, check_model_name, served_name
from policyctl.domain.protocol import Protocol
from policyctl.domain.versions import Range, parse_range
from policyctl.errors import UsageError

_HOST_PORT = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\]):\d{1,5}")

_LONGEST_S = 1e6
"""Of a deadline: eleven days. `poll` counts milliseconds in 31 bits."""


def triton_model(model: str, alias: str) -> str:
    """What Triton calls `alias` of `model`.

    Raises:
        UsageError: Either is not an allowed name.
    """
    check_model_name(model)
    return served_name(model, alias if alias == CANDIDATE else check_alias(alias))


def check_requires(requires: str | None) -> Range | None:
    """The releases that a client can do with; None for any.

    Raises:
        UsageError: It is neither a release nor a range.
    """
    if requires is None:
        return None
    try:
        return parse_range(requires)
    except UsageError as error:
        raise UsageError(
            f"requires={requires!r} is neither a release nor a range",
            remedy=f"{error.remedy} An alias is chosen with alias=.",
        ) from None


def check_url(url: str) -> str:
    """Return `url` if it is ``host:port`` or names a local lane.

    Raises:
        UsageError: It has another scheme or a path, or no port.
    """
    if lane.is_local(url):
        lane.path_of(url)
        return url
    if _HOST_PORT.fullmatch(url) is None:
        raise UsageError(
            f"url {url!r} is not host:port",
            remedy="Give for example 127.0.0.1:8001 (gRPC) or 127.0.0.1:8000 (HTTP), without a scheme.",
        )
    return url


def check_urls(url: str | Sequence[str]) -> tuple[str, ...]:
    """Each server's ``host:port``.

    Raises:
        UsageError: One has a scheme or a path, or no port, or is named twice; or none is given.
    """
    urls = (url,) if isinstance(url, str) else tuple(url)
    if not urls:
        raise UsageError("url names no server", remedy="Give host:port, or a list of such.")
    if len(set(urls)) < len(urls):
        raise UsageError(f"url names a server twice: {', '.join(urls)}", remedy="Name each once.")
    return tuple(check_url(each) for each in urls)


def check_wire(protocol: str | Protocol, *, shared_memory: bool) -> Protocol:
    """The protocol that `protocol` names, if tensors can travel so by it.

    Raises:
        UsageError: There is no such protocol, or it has no shared memory here.
    """
    try:
        wire = Protocol(protocol)
    except ValueError:
        raise UsageError(f"protocol {protocol!r} is not spoken", remedy="Use grpc or http.") from None
    if shared_memory and wire is not Protocol.GRPC:
        raise UsageError("shared_memory=True is there over gRPC alone", remedy="Use protocol='grpc', on its port.")
    return wire


def check_local(wire: Protocol, *, shared_memory: bool) -> None:
    """Raises: UsageError: The caller chooses HTTP, or shared memory, which the lane has anyway."""
    if wire is Protocol.HTTP:
        raise UsageError("local: is spoken without HTTP", remedy="Leave protocol out, or name the HTTP endpoint.")
    if shared_memory:
        raise UsageError(
            "shared_memory=True is there over gRPC alone", remedy="Leave it out: local: shares memory anyway."
        )


def check_deadline(deadline_s: float) -> float:
    """Return `deadline_s` if it is a positive number of seconds; a longer one than a system call takes is cut short.

    Raises:
        UsageError: It is not.
    """
    if not (math.isfinite(deadline_s) and deadline_s > 0):
        raise UsageError(f"deadline_s is {deadline_s}, expected a positive number of seconds")
    return min(deadline_s, _LONGEST_S)


def new_request_id() -> str:
    """A name that no other request has."""
    return os.urandom(16).hex()
