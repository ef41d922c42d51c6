"""How a page of the console is made, what a browser may do with it, and which forms count.

A page loads its style sheet and its script from here and nothing from elsewhere.
A form counts where the browser says that a page of this very address sent it,
and where it holds the secret of the session: no other page knows that.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Final
from urllib.parse import parse_qsl

from fastapi import Depends, Request, Response
from fastapi.responses import HTMLResponse

from policyctl import pages
from policyctl.api.context import api_of
from policyctl.api.guard import SCOPE_TO_MOVE, Caller, called_here
from policyctl.api.problems import ProblemError, refusal
from policyctl.api.sessions import Session
from policyctl.domain.instants import utc_text
from policyctl.domain.tokens import Scope
from policyctl.services.rollout.here import store_of

HOME: Final = "/ui"
ASSETS: Final = {"console.css": "text/css", "console.js": "text/javascript", "icon.svg": "image/svg+xml"}
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self';"
    " img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    # With no-referrer, which the other answers have, a browser would not say which page a form came from.
    "Referrer-Policy": "same-origin",
}
_NEXT: Final = re.compile(rf"{HOME}(/[\w.~%+-]+)*(\?[\w.~%+=&:-]*)?", re.ASCII)
_MOST_FIELDS: Final = 20


def asset(name: str) -> str:
    """A file that pages load."""
    return pages.text(f"console/{name}")


@cache
def _address(name: str) -> str:
    """Where a page loads a file from; a changed file has another address, so browsers keep the others."""
    return f"{HOME}/{name}?{hashlib.sha256(asset(name).encode()).hexdigest()[:12]}"


def show(request: Request, template: str, *, title: str, status: int = 200, **values: Any) -> Response:
    """A page of the console.

    Args:
        request: Whose; it says who looks.
        template: A file of the folder `console` of the templates.
        title: Its heading.
        status: Of the answer.
        values: What the template names besides.
    """
    caller: Caller | None = getattr(request.state, "caller", None)
    session = session_of(request)
    store = store_of(api_of(request).control)
    text = pages.render(
        f"console/{template}",
        title=title,
        status=status,
        here=request.url.path,
        who=caller if session is not None else None,
        may_move=caller is not None and caller.scope.allows(SCOPE_TO_MOVE) and not store,
        may_admin=caller is not None and caller.scope.allows(Scope.ADMIN),
        store=store,
        csrf="" if session is None else session.csrf,
        address=_address,
        utc=utc_text,
        **values,
    )
    return HTMLResponse(text, status, HEADERS)


def refused(request: Request, error: ProblemError) -> Response:
    """A refusal as a page; where a token is wanted, the page that asks for one."""
    if error.status == 401:
        after = getattr(request.state, "after", "") or (_here(request) if request.method == "GET" else HOME)
        answer = sign_in_page(request, after=after, status=error.status, problem=error.failure.problem)
    else:
        answer = show(
            request,
            "problem.html",
            title=error.title,
            status=error.status,
            failure=error.failure,
            request_id=request.state.request_id,
        )
    answer.headers.update(error.headers)
    return answer


def sign_in_page(request: Request, *, after: str, status: int = 200, problem: str = "") -> Response:
    """The page that asks for a token.

    Args:
        request: Whose.
        after: Where it leads then.
        status: Of the answer.
        problem: Why it asks.
    """
    in_clear = not (has_tls(request) or called_here(request))
    return show(
        request, "sign_in.html", title="Sign in", status=status, after=after, problem=problem, in_clear=in_clear
    )


def _here(request: Request) -> str:
    query = request.url.query
    return page_of_ours(request.url.path + (f"?{query}" if query else ""))


def page_of_ours(text: str) -> str:
    """`text` where it is the address of a page of the console; else that of its first page."""
    return text if _NEXT.fullmatch(text) else HOME


def has_tls(request: Request) -> bool:
    """Whether the browser speaks TLS, to a proxy before this API."""
    return "https" in {request.url.scheme, request.headers.get("x-forwarded-proto")}


def session_of(request: Request) -> Session | None:
    """The session that the guard found."""
    return getattr(request.state, "session", None)


def fields_of(request: Request, body: bytes) -> dict[str, str]:
    """What a form of the console holds; of two fields of one name the last.

    Raises:
        ProblemError: A page of another address sent it, or it cannot be read as a form.
    """
    origin, host = request.headers.get("origin", ""), request.headers.get("host", "")
    if not host or origin.lower() not in {f"http://{host}".lower(), f"https://{host}".lower()}:
        raise refusal(
            403,
            "forbidden",
            "Not from this page",
            f"the form came from {origin or 'an unknown page'}, and this console is {host or 'unknown'}",
            "Open the console and repeat it there. A proxy before the API must pass the header Host on.",
        )
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS))
    except ValueError as error:
        problem = "this is not a form of the console"
        raise refusal(422, "request", "Wrong request", problem, "Open the page again.") from error


async def _form(request: Request) -> Mapping[str, str]:
    """The fields of a form that this session sent."""
    fields, session = fields_of(request, await request.body()), session_of(request)
    if session is None or not hmac.compare_digest(session.csrf.encode(), fields.get("csrf", "").encode()):
        raise refusal(
            403,
            "forbidden",
            "Not from this page",
            "the form does not hold the secret of a session that is open",
            "Sign in, open the page again, and repeat it.",
        )
    return fields


Form = Annotated[Mapping[str, str], Depends(_form)]
"""What a route that changes something takes: without a form that counts it is not called."""
