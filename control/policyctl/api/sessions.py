"""Sessions of the console: who signed in, until when, and the secret of that session's forms.

They live in memory: after a restart of the API people sign in again. A session
holds the digest of its token and not its secret, and the token is looked up
for each request. So a token that is revoked ends its sessions.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

LIFE_S: Final = 12 * 3600.0
"""A day's work; then people sign in again."""
MOST_OF_A_TOKEN: Final = 32
"""The oldest session of the same token ends for another one."""


@dataclass(frozen=True, slots=True)
class Session:
    """One browser that signed in.

    Attributes:
        name: What its cookie holds.
        token_digest: Of the token that was shown.
        csrf: What each form of this session sends along, and no other page knows.
        until: When it ends, by the clock of `Sessions`.
    """

    name: str
    token_digest: str
    csrf: str
    until: float


@dataclass(slots=True)
class Sessions:
    """Every session that is open; used on the event loop alone.

    Attributes:
        clock: Seconds, never going back.
    """

    clock: Callable[[], float] = time.monotonic
    _open: dict[str, Session] = field(default_factory=dict)

    def begin(self, token_digest: str) -> Session:
        """A session of the token with this digest."""
        now = self.clock()
        self._open = {name: each for name, each in self._open.items() if now < each.until}
        same = [name for name, each in self._open.items() if each.token_digest == token_digest]
        for name in same[: max(0, len(same) + 1 - MOST_OF_A_TOKEN)]:
            del self._open[name]
        session = Session(secrets.token_urlsafe(32), token_digest, secrets.token_urlsafe(32), now + LIFE_S)
        self._open[session.name] = session
        return session

    def get(self, name: str) -> Session | None:
        """The open session of that name; None where there is no such session."""
        session = self._open.get(name)
        return session if session is not None and self.clock() < session.until else None

    def end(self, name: str) -> None:
        """End a session; an unknown name changes nothing."""
        self._open.pop(name, None)
