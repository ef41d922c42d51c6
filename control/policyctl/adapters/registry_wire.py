"""How a registry is asked: who learns the password, where redirects may lead, and how long anything may take.

The registry is the host that was named. Its password goes to that host, and to
the token service that this host itself names in its challenge; over TLS, or on
this machine. Nobody else learns it, and no other host's challenge is answered.

Registries send downloads and uploads on to storage hosts, so redirects are
followed: without credentials, never from TLS to plain HTTP, and never to this
machine or into a private network, unless the registry itself is there. What
counts is the address that was connected to, and plain HTTP is spoken with this
machine alone.

Source:
    OCI distribution specification 1.1; bearer tokens as in Docker's registry.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn
from urllib.parse import SplitResult, parse_qsl, urlencode, urljoin, urlsplit

from urllib3.exceptions import HTTPError, NameResolutionError, NewConnectionError, SSLError

from policyctl.adapters.registry_reference import Reference
from policyctl.adapters.web import Answer, Body, DeniedError, LargeError, Reach, SlowError, Web, reach_of
from policyctl.errors import IntegrityError, PolicyctlError, ServerError, UsageError, connection_text
from policyctl.settings import RegistrySettings

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MOST_HOPS: Final = 5
_AGAIN: Final = frozenset({429, 502, 503, 504})
_ATTEMPTS: Final = 4
_MOST_PAUSE_S: Final = 10.0
_TOKEN_BYTES: Final = 64 << 10
_CHALLENGE: Final = re.compile(r'(\w+)="([^"]*)"')
_TOKEN: Final = re.compile(r"[!-~]+")
_CREDENTIALS: Final = "Set POLICYCTL_REGISTRY__USERNAME and POLICYCTL_REGISTRY__PASSWORD."
Origin = tuple[str, str, int]


@dataclass(slots=True)
class Wire:
    """The way to one repository of a registry.

    Attributes:
        where: Which.
        settings: Credentials, certificates, patience.
    """

    where: Reference
    settings: RegistrySettings
    _own: Origin = field(init=False)
    _web: Web = field(init=False)
    _reach: Reach | None = None
    _authorization: str = ""

    def __post_init__(self) -> None:
        self._own = _origin(urlsplit(self.where.base))
        try:
            self._web = Web(ca_file=self.settings.ca_file, check=self._check)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"registry.ca_file {self.settings.ca_file}: {error}", remedy="Name a file of certificates (PEM)."
            ) from error

    @contextmanager
    def open(
        self,
        method: str,
        url: str,
        *,
        doing: str,
        expected: tuple[int, ...],
        headers: Mapping[str, str] | None = None,
        body: bytes | Body | None = None,
        size_bytes: int = 0,
    ) -> Iterator[Answer]:
        """One request, repeated where the registry asks for that, while the block reads its answer.

        Args:
            method: Of HTTP.
            url: Of the registry, or where it sent an upload to.
            doing: What for, in words.
            expected: The statuses that are an answer.
            headers: Without credentials.
            body: Bytes, or a file from where it stands.
            size_bytes: Of the file that travels, either way.

        Raises:
            UsageError: Other credentials are wanted, or no such thing is there.
            ServerError: No answer, not in time, or from where none is asked.
            IntegrityError: The answer has far too many bytes.
        """
        limit_s = self.settings.timeout_s + size_bytes / (self.settings.slowest_kib_per_s * 1024)
        begin = 0 if body is None or isinstance(body, bytes) else body.tell()

        def attempt() -> tuple[Answer, str]:
            if not (body is None or isinstance(body, bytes)):
                body.seek(begin)
            return self._follow(method, url, headers or {}, body, limit_s=limit_s)

        answer, at = self._patiently(method, attempt, doing)
        if answer.status == 401 and self._is_own(at):
            with closing(answer):
                refused, challenge = self._refused(answer, at, doing), answer.headers.get("WWW-Authenticate", "")
            if not (proof := self._prove(challenge)):
                raise refused
            self._authorization = proof
            answer, at = self._patiently(method, attempt, doing)
        with closing(answer):
            if answer.status not in expected:
                raise self._refused(answer, at, doing)
            with self._in_words(doing):
                yield answer

    def _patiently(self, method: str, attempt: Callable[[], tuple[Answer, str]], doing: str) -> tuple[Answer, str]:
        """The answer, asked for again where a server is busy, or where a connection broke that changed nothing."""
        for number in range(_ATTEMPTS):
            pause_s, is_last = 0.2 * 2**number, number == _ATTEMPTS - 1
            try:
                with self._in_words(doing):
                    answer, at = attempt()
            except _BrokenError:
                if is_last or method not in {"GET", "HEAD"}:
                    raise
            else:
                if answer.status not in _AGAIN or is_last:
                    return answer, at
                with closing(answer):
                    pause_s = max(pause_s, self._wished_pause_s(answer, at))
            time.sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")

    def _wished_pause_s(self, answer: Answer, at: str) -> float:
        """How long the other side wants us to wait.

        Raises:
            ServerError: Longer than a command can wait.
        """
        wish = answer.headers.get("Retry-After", "")
        wished_s = float(wish) if re.fullmatch("[0-9]{1,9}", wish) else 0.0
        if wished_s > _MOST_PAUSE_S:
            raise ServerError(
                f"{urlsplit(at).netloc} is busy ({answer.status}) and asks to wait for {wished_s:.0f} s",
                remedy="Run the command again then: it goes on where it ended.",
            )
        return wished_s

    def _follow(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | Body | None, *, limit_s: float
    ) -> tuple[Answer, str]:
        """The answer at the end of a chain of redirects, and where that is."""
        for _ in range(_MOST_HOPS + 1):
            self._require_allowed(url)
            sent = dict(headers)
            if self._authorization and self._is_own(url):
                sent["Authorization"] = self._authorization
            stall_s = self.settings.timeout_s
            answer = self._web.send(method, url, headers=sent, body=body, limit_s=limit_s, stall_s=stall_s)
            onward = answer.headers.get("Location", "") if answer.status in _REDIRECTS else ""
            if not onward or method not in {"GET", "HEAD"}:
                return answer, url
            answer.close()
            url = urljoin(url, onward)
        raise ServerError(f"{self.where.host} redirects more than {_MOST_HOPS} times")

    def _require_allowed(self, url: str) -> None:
        """Refuse an address of another host that is not TLS, or that carries credentials.

        Raises:
            ServerError: It is one.
        """
        try:
            parts = urlsplit(url)
            scheme, host, _ = _origin(parts)
        except ValueError:
            raise ServerError(f"{self.where.host} sends on to {url[:200]!r}, which is not an address") from None
        plain = scheme == "http" and self.where.local
        if not host or parts.username is not None or not (scheme == "https" or plain):
            raise ServerError(
                f"{self.where.host} sends on to {scheme}://{parts.netloc[:200]}, which is not TLS",
                remedy="Nothing was sent there. Ask who runs the registry.",
            )

    def _is_own(self, url: str) -> bool:
        return _origin(urlsplit(url)) == self._own

    def _check(self, scheme: str, host: str, port: int, address: str) -> None:
        """Look at a connection before anything is sent."""
        reach = reach_of(address)
        if scheme == "http" and reach is not Reach.MACHINE:
            raise DeniedError(f"{host} is at {address}, and plain HTTP is spoken with this machine alone")
        if (scheme, host.strip("[]").lower(), port) == self._own:
            self._reach = reach
        elif reach not in {Reach.WORLD, self._reach}:
            raise DeniedError(f"{self.where.host} sends on to {host}, which is at {address}: {reach}")

    def _prove(self, challenge: str) -> str:
        """The header that answers a challenge of the registry; empty where nothing is known that could help."""
        kind, _, rest = challenge.partition(" ")
        user, password = self.settings.username, self.settings.password.get_secret_value()
        basic = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode() if user else ""
        if kind.lower() == "basic":
            return basic if self._authorization != basic else ""
        if kind.lower() != "bearer":
            return ""
        asked = dict(_CHALLENGE.findall(rest))
        realm = asked.pop("realm", "")
        self._require_allowed(realm)
        parts = urlsplit(realm)
        url = parts._replace(query=urlencode([*parse_qsl(parts.query), *asked.items()]), fragment="").geturl()
        with self._in_words("asking for a token"):
            answer = self._web.send(
                "GET", url, headers={"Authorization": basic} if basic else {}, limit_s=self.settings.timeout_s
            )
            with closing(answer):
                content = answer.read(_TOKEN_BYTES) if answer.status == 200 else b""
        with suppress(ValueError, AttributeError, TypeError, LookupError, RecursionError):
            found: Any = json.loads(content)
            if _TOKEN.fullmatch(token := found.get("token") or found["access_token"]):
                return f"Bearer {token}"
        raise UsageError(
            f"{parts.netloc} gives no token for {self.where.name} (HTTP {answer.status})", remedy=_CREDENTIALS
        )

    @contextmanager
    def _in_words(self, doing: str) -> Iterator[None]:
        """Errors of the connection, said in words."""
        try:
            yield
        except HTTPError as error:
            self._raise(error, doing)

    def _raise(self, error: HTTPError, doing: str) -> NoReturn:
        host = self.where.host
        if isinstance(error, DeniedError):
            raise ServerError(f"{error}", remedy="Nothing was sent there. Ask who runs the registry.") from error
        if isinstance(error, LargeError):
            raise IntegrityError(f"{host}: {doing}: {error}", remedy="Is it a registry? Nothing was kept.") from error
        if isinstance(error, SlowError):
            raise ServerError(
                f"{host}: {doing}: {error}",
                remedy="Run the command again: it goes on where it ended. Where the line is slow, raise"
                " POLICYCTL_REGISTRY__TIMEOUT_S, or lower POLICYCTL_REGISTRY__SLOWEST_KIB_PER_S.",
            ) from error
        if isinstance(error, NewConnectionError | NameResolutionError | SSLError):
            kind = ServerError if isinstance(error, SSLError) else _BrokenError
            raise kind(
                f"{host} does not answer: {connection_text(error)}",
                remedy="Check the registry's address, and whether it speaks TLS (plain HTTP is for this machine only).",
            ) from error
        raise _BrokenError(
            f"{host}: {doing}: the connection was cut ({connection_text(error)})",
            remedy="Run the command again: it goes on where it ended.",
        ) from error

    def _refused(self, answer: Answer, at: str, doing: str) -> PolicyctlError:
        said = ""
        if self._is_own(at):  # what another host says may be what a service inside says to nobody else
            with suppress(HTTPError):
                said = next(answer.chunks(), b"")[:300].decode("utf-8", "replace")
        said = "".join(c if c.isprintable() else " " for c in said).strip() or answer.reason
        who = "the registry" if self._is_own(at) else urlsplit(at).netloc
        words = f"{self.where.host}/{self.where.name}: {doing}: {who} says {answer.status} ({said})"
        if answer.status in {401, 403}:
            return UsageError(words, remedy=_CREDENTIALS)
        if answer.status == 404:
            return UsageError(words, remedy="Check the name and the tag.")
        return ServerError(words)


class _BrokenError(ServerError):
    """A connection that could not be had, or broke: another attempt may work."""


def _origin(parts: SplitResult) -> Origin:
    """Scheme, host and port of an address."""
    return parts.scheme, (parts.hostname or "").lower(), parts.port or {"http": 80}.get(parts.scheme, 443)
