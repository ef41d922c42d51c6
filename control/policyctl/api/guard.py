"""Who may ask: tokens, sessions, scopes, callers without a token, rates, and the size of what they send.

A token goes before everything: one that does not count is refused also where
none is needed, so nobody believes to act under it. Without one a caller may
look, and only where all of this holds: the API listens on this machine alone,
the setting `api.anonymous` says so, no proxy has passed the request on, and the
name that was called is this machine's (a page in a browser that had its name
moved here calls another).

It stands before FastAPI reads a body, so that who may not ask learns nothing
of what would have been right.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import re
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, Final

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.types import Message

from policyctl.api.context import ANONYMOUS, LOGGER, LOOKS, MOST_AT_ONCE, Api, api_of, run
from policyctl.api.problems import refusal, too_many
from policyctl.domain.choices import Anonymous
from policyctl.domain.log_event import LogLevel
from policyctl.domain.tokens import Scope, Token, find
from policyctl.errors import IntegrityError, ServerError, UsageError

SCHEME: Final = "token"
"""The security scheme's name in the OpenAPI document."""
SCOPE_TO_MOVE: Final = Scope.PROMOTE
"""What moving an alias needs."""
BODY_TIMEOUT_S: Final = 10.0
_PASSED_ON: Final = re.compile(
    "forwarded|via|cdn-loop|(x-forwarded|x-original|x-envoy|x-azure|cf-connecting|fastly-client)(-.*)?"
    "|x-real-ip|(true|x|x-cluster)-client-ip"
)
"""The headers that proxies add."""
_HOST: Final = re.compile(r"(localhost|[0-9.]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        name: Of the token; ``anonymous`` without one.
    """

    name: str
    scope: Scope


def caller_of(request: Request) -> Caller:
    """Who asks, as the guard found."""
    caller: Caller = request.state.caller
    return caller


def guarded(
    needs: Scope, *, open_here: bool = False, monitors: bool = False, by_session: bool = False
) -> type[APIRoute]:
    """The class of routes that ask for a scope.

    Args:
        needs: Which scope.
        open_here: On this machine nobody needs a token.
        monitors: What watches this API asks here. An answer costs little, however many ask, so no rate holds
            for it, and other requests of the same caller take no place from it.
        by_session: The console asks here: a cookie names who signed in.
    """

    class Guarded(APIRoute):
        """A route behind the guard, and described as such."""

        def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
            security: list[dict[str, list[str]]] = [{SCHEME: [needs.value]}]
            extra = {"security": [{}, *security] if open_here else security}
            if not iscoroutinefunction(endpoint):
                endpoint = _off_the_loop(endpoint)
            super().__init__(path, endpoint, **{**options, "openapi_extra": extra})

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            """The guard, and then what FastAPI does."""
            inner = super().get_route_handler()

            async def handle(request: Request) -> Response:
                api = api_of(request)
                caller = of_session(api, request) if by_session else None
                caller = caller or identify(api, request, open_here=open_here)
                request.state.caller = caller
                require_scope(caller, needs)
                if not monitors:
                    require_rate(api, request, caller)
                with place_of(api, caller, of=self.path if monitors else ""):
                    body = await read_body(request)
                    return await inner(Request(request.scope, _again(body, request)))

            return handle

    return Guarded


def _off_the_loop(endpoint: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
    """`endpoint`, which blocks, as a coroutine that carries it out on the threads of its caller."""

    @wraps(endpoint)
    async def endpoint_of_loop(request: Request, **given: Any) -> Any:
        return await run(request, endpoint, request, **given)

    return endpoint_of_loop


def identify(api: Api, request: Request, *, open_here: bool) -> Caller:
    """Who asks.

    Raises:
        ProblemError: A token that does not count, or none where one is needed.
    """
    headers = request.headers.getlist("authorization")
    if not headers:
        return _without_token(api, request, open_here=open_here)
    header = headers[0] if len(headers) == 1 else ""  # of two, nobody knows which one a proxy went by
    scheme, _, secret = header.partition(" ")
    if scheme.lower() != "bearer":
        return _caller(api, request, None, "Authorization is not Bearer TOKEN")
    return of_secret(api, request, secret)


def of_secret(api: Api, request: Request, secret: str) -> Caller:
    """Who shows this secret.

    Raises:
        ProblemError: It is not a token's, or that of a token that does not count.
    """
    return _caller(api, request, find(_tokens(api), secret.strip()))


def of_session(api: Api, request: Request) -> Caller | None:
    """Who signed in; None where the browser names no session that is open.

    Raises:
        ProblemError: Its token does not count any more, which ends the session.
    """
    session = api.sessions.get(request.cookies.get(session_cookie(api), ""))
    if session is None:
        return None
    token = next((token for token in _tokens(api) if token.digest == session.token_digest), None)
    if token is None or not token.good(datetime.now(UTC)):
        api.sessions.end(session.name)
    request.state.session = session
    return _caller(api, request, token)


def session_cookie(api: Api) -> str:
    """The name of the session's cookie: browsers send one port's cookies to every port of a machine."""
    return f"policyctl-{api.control.settings.api.port}"


def _tokens(api: Api) -> tuple[Token, ...]:
    try:
        return api.tokens.read()
    except (IntegrityError, UsageError) as error:
        # The caller cannot put that right, and nobody is let in meanwhile.
        message = f"Nobody is let in: {error.problem}. {error.remedy}"
        api.control.tell(message, level=LogLevel.ERROR, logger=LOGGER)
        raise ServerError("the tokens of this control API cannot be read", remedy="Its log says why.") from error


def _caller(api: Api, request: Request, token: Token | None, unknown: str = "the token is unknown") -> Caller:
    if token is not None and token.good(datetime.now(UTC)):
        return Caller(token.name, token.scope)
    # After the look, not before: behind a proxy the address is everybody's.
    if api.failures.take(request.client.host if request.client is not None else ""):
        raise too_many("too many unknown tokens came from this address", "Wait a minute.", retry_s=60)
    raise refusal(
        401,
        "unauthorized",
        "No token that counts",
        unknown if token is None else f"the token is {token.state(datetime.now(UTC))}",
        "Ask the keeper of the repository for one: policyctl token create NAME --scope read",
        headers={"WWW-Authenticate": 'Bearer realm="policyctl", error="invalid_token"'},
    )


def _without_token(api: Api, request: Request, *, open_here: bool) -> Caller:
    may_look = open_here or api.control.settings.api.anonymous is Anonymous.READ
    passed_on = any(_PASSED_ON.fullmatch(name.replace("_", "-")) for name in request.headers)
    if api.local and may_look and not passed_on and called_here(request):
        return Caller(ANONYMOUS, Scope.READ)
    raise refusal(
        401,
        "unauthorized",
        "No token",
        "this needs a token",
        "Send Authorization: Bearer TOKEN. Create one where the repository is: policyctl token create NAME",
        headers={"WWW-Authenticate": 'Bearer realm="policyctl"'},
    )


def called_here(request: Request) -> bool:
    """Whether the name that was called is this machine's."""
    called = _HOST.fullmatch(request.headers.get("host", "").lower())
    return called is not None and is_loopback(called[1])


def require_scope(caller: Caller, needs: Scope, *, what: str = "this") -> None:
    """Refuse a caller who may not."""
    if caller.scope.allows(needs):
        return
    who = "a caller without a token" if caller.name == ANONYMOUS else f"token {caller.name}"
    raise refusal(
        403,
        "forbidden",
        "Not allowed",
        f"{what} needs scope {needs}, {who} has {caller.scope}",
        f"Create a token that may: policyctl token create NAME --scope {needs}",
        headers={"WWW-Authenticate": f'Bearer realm="policyctl", error="insufficient_scope", scope="{needs}"'},
    )


def require_rate(api: Api, request: Request, caller: Caller) -> None:
    """Refuse a caller who asks more often than is allowed."""
    looks = request.method in LOOKS
    wait_s = (api.reads if looks else api.changes).take(caller.name)
    if wait_s:
        what = "looks" if looks else "changes"
        raise too_many(f"{caller.name} {what} more often than is allowed", "Ask less often.", retry_s=math.ceil(wait_s))


@contextmanager
def place_of(api: Api, caller: Caller, *, of: str = "") -> Iterator[None]:
    """Count one more request of that caller while the block runs.

    Args:
        api: Whose requests.
        caller: Who asks.
        of: What has places apart from the caller's others.

    Raises:
        ProblemError: The caller has too many under way.
    """
    with api.place(f"{caller.name} {of}" if of else caller.name) as free:
        if not free:
            problem = f"{caller.name} has {MOST_AT_ONCE} requests under way"
            raise too_many(problem, "Wait until one of them is answered.", retry_s=1)
        yield


async def read_body(request: Request) -> bytes:
    """All that was sent, if it is not too much and comes in time.

    Raises:
        ProblemError: It is too much, or too slow.
    """
    most_bytes = api_of(request).control.settings.api.max_body_bytes
    said = request.headers.get("content-length", "")
    parts, size = [], int(said) if re.fullmatch("[0-9]{1,18}", said) else 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            if size <= most_bytes:
                size = 0
                async for part in request.stream():
                    size += len(part)
                    parts.append(part)
                    if size > most_bytes:
                        break
    except (TimeoutError, ClientDisconnect) as error:
        raise refusal(
            408, "too-slow", "Too slow", f"the request did not come within {BODY_TIMEOUT_S:.0f} s", "Send it again."
        ) from error
    if size > most_bytes:
        raise refusal(
            413,
            "too-large",
            "Too large",
            f"the request has more than {most_bytes} bytes",
            "Send less, or raise POLICYCTL_API__MAX_BODY_BYTES.",
        )
    return b"".join(parts)


def _again(body: bytes, request: Request) -> Callable[[], Coroutine[Any, Any, Message]]:
    """The body once more, for FastAPI; then whatever else the connection says."""
    was_sent = False

    async def receive() -> Message:
        nonlocal was_sent
        if was_sent:
            return await request.receive()
        was_sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can reach that address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
