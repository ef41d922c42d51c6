"""Where in an OCI registry something is: ``oci://HOST[:PORT]/NAME[:TAG|@DIGEST]``."""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from policyctl.domain.manifest import is_digest
from policyctl.domain.oci import is_tag
from policyctl.errors import UsageError

SCHEME: Final = "oci://"
_PART: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME: Final = re.compile(rf"{_PART}(?:/{_PART})*")
_HOST: Final = re.compile(r"[A-Za-z0-9.\-\[\]:]+")


@dataclass(frozen=True, slots=True)
class Reference:
    """``oci://HOST[:PORT]/NAME[:TAG|@DIGEST]``.

    Attributes:
        host: With its port.
        name: Of the repository in the registry.
        reference: Tag or digest; empty where none was given.
    """

    host: str
    name: str
    reference: str

    @property
    def local(self) -> bool:
        """Whether the registry is on this machine."""
        bare = urlsplit(f"//{self.host}").hostname or ""
        with suppress(ValueError):
            return ipaddress.ip_address(bare).is_loopback
        return bare == "localhost"

    @property
    def base(self) -> str:
        """Where the API of this repository begins: TLS, but on this machine itself."""
        return f"{'http' if self.local else 'https'}://{self.host}/v2/{self.name}"


def parse_reference(text: str) -> Reference:
    """Read a reference.

    Raises:
        UsageError: It is not a reference.
    """
    host, slash, rest = text.removeprefix(SCHEME).partition("/")
    name, at, digest = rest.partition("@")
    tag = ""
    if not at:
        name, _, tag = rest.partition(":")
    with suppress(ValueError):
        port_known = urlsplit(f"//{host}").port is not None or ":" not in host
        named = _NAME.fullmatch(name) is not None and (not at or is_digest(digest)) and (not tag or is_tag(tag))
        if slash and port_known and _HOST.fullmatch(host) and named:
            return Reference(host, name, digest or tag)
    raise UsageError(
        f"{text!r} names no place in a registry",
        remedy="Use oci://HOST[:PORT]/NAME[:TAG], for example oci://registry.example.com/policies/walker:1.0.0.",
    )
