"""What a profile asks of the settings as a whole, beyond what each may be by itself.

A rule only ever refuses: no profile changes a value behind anybody's back. The
rules of `production` are stated in docs/configuration.md and in the reference.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from pydantic import BaseModel

from policyctl.config.keys import Key, keys, value_at
from policyctl.documents.document import Path

DEVELOPMENT: Final = "development"
STAGING: Final = "staging"
PRODUCTION: Final = "production"
PROFILES: Final = (DEVELOPMENT, STAGING, PRODUCTION)
"""The profiles that need no file."""

TLS: Final = ("security", "tls_terminated")
_KEYLESS: Final = "the key of the Triton at server.url, without which anybody could load and unload its models"
_LISTENING: Final = "a loopback address, or security.tls_terminated: true where a proxy with TLS stands before it"


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that a profile asks.

    Attributes:
        path: Of which setting; the last part ``*`` is any group's.
        words: What is asked, for the documentation.
        expected: What is expected, for a refusal.
        holds: Whether a value will do, given all settings.
    """

    path: Path
    words: str
    expected: str
    holds: Callable[[Any, Any], bool]


class Broken(NamedTuple):
    """A rule that does not hold: of which setting, its value, and what the rule expects."""

    key: Key
    value: Any
    expected: str


def _is_loopback(host: Any, settings: Any) -> bool:
    if settings.security.tls_terminated or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(str(host).strip("[]")).is_loopback
    except ValueError:
        return False


_SAFE_LISTENING: Final = Rule(
    ("*", "host"),
    "everything listens on loopback, or `security.tls_terminated` states that a proxy with TLS stands before it",
    _LISTENING,
    _is_loopback,
)

RULES: Final[Mapping[str, tuple[Rule, ...]]] = {
    DEVELOPMENT: (),
    STAGING: (
        Rule(
            ("integrity", "signatures"),
            "signatures are looked at: `warn` or `required`",
            "warn or required",
            lambda value, _: value != "off",
        ),
        _SAFE_LISTENING,
    ),
    PRODUCTION: (
        Rule(
            ("integrity", "signatures"),
            "nothing is served that no trusted key signed: `required`",
            "required",
            lambda value, _: value == "required",
        ),
        _SAFE_LISTENING,
        Rule(
            ("security", "unpickle"),
            "nothing is unpickled for anybody: `false`",
            "false: nothing is unpickled",
            lambda value, _: value is False,
        ),
        Rule(
            ("bake", "on_inconclusive"),
            "a release of which a bake saw too little does not stay: `rollback`",
            "rollback",
            lambda value, _: value == "rollback",
        ),
        Rule(
            ("tracing", "unguarded"),
            "nothing is traced or recorded that the server can crash of: `false`",
            "false: the server can crash of it",
            lambda value, _: value is False,
        ),
        Rule(
            ("server", "http"),
            "no request of a client can end the server: `auto` or `off`",
            "auto: on where the guard of Triton is built",
            lambda value, _: value != "on",
        ),
        Rule(
            ("server", "api_key"),
            "a Triton that somebody else runs (`server.url`) has a key for its control API",
            _KEYLESS,
            lambda value, settings: bool(value.get_secret_value()) or not settings.server.url,
        ),
    ),
}

STARTER: Final[Mapping[str, Mapping[Path, Any]]] = {
    STAGING: {("integrity", "signatures"): "warn"},
    PRODUCTION: {
        ("integrity", "signatures"): "required",
        ("security", "unpickle"): False,
        # No rule asks for a bake: nobody should have to edit a file to promote without one. The rule about
        # `bake.on_inconclusive` means something only where there is one, though.
        ("bake", "for_s"): 300,
    },
}
"""What `policyctl config init` writes into the file of a profile, so that its rules hold, and mean something."""

NO_PLAIN_SECRETS: Final = frozenset({PRODUCTION})
"""Where no settings file may hold a secret."""
PLAIN_SECRET: Final = "{file: PATH}: a settings file of this profile holds no secrets"  # noqa: S105


def broken(profile: str, settings: BaseModel) -> Iterator[Broken]:
    """Every rule of a profile that does not hold."""
    for rule in RULES.get(profile, ()):
        for path, key in keys(type(settings)).items():
            if path != rule.path and not (rule.path[0] == "*" and path[-1] == rule.path[-1]):
                continue
            value = value_at(settings, key.path)
            if not rule.holds(value, settings):
                yield Broken(key, value, rule.expected)
