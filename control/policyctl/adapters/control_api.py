"""A control API as a client sees it: documents, and refusals as the errors that they were.

A problem's ``code`` names the class of `policyctl.errors` that was raised over
there, so the command line exits as it would have on that machine. A token never
travels in clear: plain HTTP is spoken with this machine alone.
"""

from __future__ import annotations

import ipaddress
import json
import secrets
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import urllib3

from policyctl import errors
from policyctl.adapters.web import LargeError, Web
from policyctl.errors import PolicyctlError, ServerError, UsageError, connection_text

PATIENCE_S: Final = 30.0
"""How long a connection that broke is tried again: a control API that is started again knows the operation."""
_MOST_BYTES: Final = 64 << 20
_KINDS: Final[Mapping[str, type[PolicyctlError]]] = {
    kind.code: kind
    for kind in (
        errors.UsageError,
        errors.IntegrityError,
        errors.GateError,
        errors.ParityError,
        errors.BusyError,
        errors.MovedError,
        errors.ServerError,
        errors.MoveError,
        errors.UnsupportedError,
    )
}


def error_of(document: Mapping[str, Any]) -> PolicyctlError:
    """The error that a problem document, or an operation, describes."""
    kind = _KINDS.get(str(document.get("code")), PolicyctlError)
    return kind(str(document.get("problem", "")), remedy=str(document.get("remedy", "")))


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: a status that does not refuse, and a document."""

    status: int
    document: Any


class ControlApi:
    """A client of one control API, for one thread.

    Args:
        url: Where it is, ``https://host[:port][/path]``.
        token: Empty for none.
        ca_file: Certificates to trust instead of the system's.
        timeout_s: For one answer, besides the time that the API is asked to wait.

    Raises:
        UsageError: The address cannot be used, or a token would travel in clear.
    """

    def __init__(self, url: str, *, token: str = "", ca_file: Path | None = None, timeout_s: float = 30.0) -> None:
        self.url = url.rstrip("/")
        _check(self.url, token)
        self._headers = {"Accept": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._timeout_s = timeout_s
        try:
            self._web = Web(ca_file=ca_file)
        except (OSError, ValueError) as error:
            raise UsageError(f"api.ca_file {ca_file}: {error}", remedy="Name a file of certificates (PEM).") from error

    def get(
        self, path: str, query: Mapping[str, Any] | None = None, *, wait_s: float = 0.0, begun: bool = False
    ) -> Any:
        """A document.

        Args:
            path: Where.
            query: What of it; None values are left out.
            wait_s: How long the answer is asked to wait.
            begun: Something goes on over there: a connection that cannot be had is tried again for a while.

        Raises:
            PolicyctlError: What was refused over there.
            ServerError: No answer.
        """
        return self._call("GET", path, query, None, wait_s=wait_s, begun=begun).document

    def post(self, path: str, body: Mapping[str, Any]) -> Answer:
        """Ask for a change, once: under a fresh idempotency key, so a broken connection is safely tried again.

        Raises:
            PolicyctlError: What was refused over there.
            ServerError: No answer.
        """
        content = json.dumps({key: value for key, value in body.items() if value is not None}).encode()
        return self._call("POST", path, None, content, wait_s=0.0, begun=False)

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        body: bytes | None,
        *,
        wait_s: float,
        begun: bool,
    ) -> Answer:
        fields = {key: str(value) for key, value in (query or {}).items() if value is not None}
        headers = dict(self._headers)
        if body is not None:
            headers |= {"Content-Type": "application/json", "Idempotency-Key": secrets.token_hex(16)}
        target = self.url + path + ("?" + urlencode(fields) if fields else "")
        until, pause_s = time.monotonic() + PATIENCE_S, 0.1
        while True:
            try:
                answer = self._web.send(method, target, body=body, headers=headers, limit_s=self._timeout_s + wait_s)
                with closing(answer):
                    return self._read(answer.status, answer.read(_MOST_BYTES))
            except urllib3.exceptions.HTTPError as error:
                begun = begun or not isinstance(error, urllib3.exceptions.NewConnectionError)
                is_vain = isinstance(error, urllib3.exceptions.SSLError | LargeError)
                if not begun or is_vain or time.monotonic() + pause_s > until:
                    raise ServerError(
                        f"no control API answers at {self.url} ({connection_text(error)})",
                        remedy="Start one where the repository is: policyctl api."
                        " Or correct --api (POLICYCTL_API__URL).",
                    ) from error
            time.sleep(pause_s)
            pause_s = min(2.0, pause_s * 2)

    def _read(self, status: int, content: bytes) -> Answer:
        try:
            document = json.loads(content)
        except (ValueError, RecursionError):
            document = None
        if document is not None and status < 300:
            return Answer(status, document)
        if isinstance(document, dict) and "code" in document and "problem" in document:
            raise error_of(document)
        raise ServerError(
            f"{self.url} answered {status}, and not as a control API does",
            remedy="Correct --api (POLICYCTL_API__URL), or look at what stands before it.",
        )


def _check(url: str, token: str) -> None:
    try:
        parsed = urllib3.util.parse_url(url)
    except urllib3.exceptions.LocationParseError:
        parsed = urllib3.util.Url()
    if parsed.scheme not in {"http", "https"} or not parsed.host or parsed.auth or parsed.query or parsed.fragment:
        raise UsageError(
            f"--api {url!r} is not the address of a control API",
            remedy="For example http://127.0.0.1:8004, or https://policies.example.com.",
        )
    if token and parsed.scheme == "http" and not _is_here(parsed.host):
        raise UsageError(
            f"--api {url} would send the token in clear to {parsed.host}",
            remedy="Use https://: the control API belongs behind TLS.",
        )


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
