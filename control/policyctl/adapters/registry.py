"""An OCI registry, spoken to by its distribution API: the source or the destination of releases.

Blobs are checked by digest on both ways: a registry, and whoever sits between,
is trusted with nothing. What is there already is not sent again, and a download
that was cut short goes on where it ended.

Passwords go out over TLS, or to this machine itself, and to the host that was
named alone.

Source:
    OCI distribution specification 1.1; bearer tokens as in Docker's registry.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from policyctl.adapters import files
from policyctl.adapters.registry_reference import SCHEME, Reference
from policyctl.domain.manifest import FileEntry, digest_of
from policyctl.domain.oci import MEDIA_MANIFEST, MOST_BYTES, is_digest, tag_of
from policyctl.errors import IntegrityError, ServerError, UsageError
from policyctl.hashing import hash_file
from policyctl.settings import RegistrySettings

_CHUNK_BYTES: Final = 1 << 20
_CHALLENGE: Final = re.compile(r'(\w+)="([^"]*)"')


@dataclass(slots=True)
class Registry:
    """One repository in one registry.

    Attributes:
        where: Which.
        settings: Credentials, certificates, patience.
    """

    where: Reference
    settings: RegistrySettings
    _pool: urllib3.PoolManager = field(init=False)
    _authorization: str = ""

    def __post_init__(self) -> None:
        ca = self.settings.ca_file
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(self.settings.timeout_s),
            retries=urllib3.Retry(3, backoff_factor=0.2, status_forcelist=(502, 503, 504), raise_on_status=False),
            ca_certs=None if ca is None else str(ca),
        )

    def __str__(self) -> str:
        return f"{SCHEME}{self.where.host}/{self.where.name}"

    def tag(self, _model: str, release: str) -> str:
        """How a release is named: as it was asked for, else by its number."""
        return self.where.reference or tag_of(release)

    def create(self) -> None:
        """Ask whether anybody is there.

        Raises:
            ServerError: Nobody answers, or it is no registry.
            UsageError: It wants other credentials.
        """
        self._call("GET", f"{self.where.base.partition('/v2/')[0]}/v2/", expected=(200,), doing="asking the registry")

    def manifest(self, reference: str) -> bytes:
        """The OCI manifest of that tag or digest, or of the one in the reference.

        Raises:
            UsageError: There is none, or none was named.
            ServerError: The registry does not answer.
            IntegrityError: It is not what the digest says, or far too long.
        """
        wanted = reference or self.where.reference
        if not wanted:
            raise UsageError(f"{self} names no release", remedy=f"Add a tag: {self}:1.0.0")
        content, headers = self._call(
            "GET",
            f"{self.where.base}/manifests/{wanted}",
            headers={"Accept": MEDIA_MANIFEST},
            expected=(200,),
            doing=f"fetching {wanted}",
        )
        digest = wanted if is_digest(wanted) else headers.get("Docker-Content-Digest", "")
        if digest and digest_of(content) != digest:
            raise IntegrityError(f"{self}: the manifest of {wanted} is {digest_of(content)}, expected {digest}")
        return content

    def put_manifest(self, content: bytes, tag: str) -> None:
        """Store an OCI manifest under a tag; the blobs must be there.

        Raises:
            UsageError: Not allowed.
            ServerError: The registry refuses.
        """
        self._call(
            "PUT",
            f"{self.where.base}/manifests/{tag}",
            body=content,
            headers={"Content-Type": MEDIA_MANIFEST},
            expected=(201,),
            doing=f"naming {tag}",
        )

    def has(self, blob: FileEntry) -> bool:
        """Whether the registry says that it has the blob; it computed the digest itself when it took it."""
        url = f"{self.where.base}/blobs/{blob.digest}"
        with self._open("HEAD", url, expected=(200, 404), doing=f"looking for {blob.path}") as response:
            return response.status == 200

    def put(self, blob: FileEntry, source: Path) -> None:
        """Send a blob, streamed.

        Raises:
            UsageError: Not allowed.
            ServerError: The registry refuses, for example because the file has changed.
        """
        doing = f"sending {blob.path}"
        url = f"{self.where.base}/blobs/uploads/"
        with self._open("POST", url, headers={"Content-Length": "0"}, expected=(202,), doing=doing) as begun:
            location = urljoin(url, begun.headers.get("Location", ""))
        parts = urlsplit(location)
        query = urlencode([*parse_qsl(parts.query), ("digest", blob.digest)])
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob.size_bytes)}
        with source.open("rb") as body:
            self._call(
                "PUT", parts._replace(query=query).geturl(), body=body, headers=headers, expected=(201,), doing=doing
            )

    def fetch(self, blob: FileEntry, target: Path) -> None:
        """Download a blob to `target`, from where an earlier try ended; on disk on return.

        Raises:
            UsageError: The disk refuses, or the registry has no such blob.
            ServerError: The registry does not answer.
            IntegrityError: What came is not the blob.
        """
        part = target.with_name(target.name + ".part")
        resumed = part.exists()
        try:
            self._receive(blob, part)
            found = hash_file(part.parent, part.name)
            if resumed and found.digest != blob.digest:
                part.unlink()
                self._receive(blob, part)
                found = hash_file(part.parent, part.name)
            if (found.size_bytes, found.digest) != (blob.size_bytes, blob.digest):
                part.unlink()
                raise IntegrityError(
                    f"{self}: {blob.path} came as {found.digest} ({found.size_bytes} bytes),"
                    f" expected {blob.digest} ({blob.size_bytes} bytes)"
                )
            part.chmod(0o444)
            part.replace(target)
            files.sync_folder(target.parent)
        except OSError as error:
            raise files.storage_error(target, error) from error

    def _receive(self, blob: FileEntry, part: Path) -> None:
        begin = part.stat().st_size if part.exists() else 0
        if begin >= blob.size_bytes > 0:
            return
        headers = {"Range": f"bytes={begin}-"} if begin else {}
        url, doing = f"{self.where.base}/blobs/{blob.digest}", f"fetching {blob.path}"
        with self._open("GET", url, headers=headers, expected=(200, 206), doing=doing) as response:
            mode = "ab" if response.status == 206 else "wb"
            left = blob.size_bytes - (begin if response.status == 206 else 0)
            with part.open(mode) as file:
                for chunk in _stream(response, doing):
                    file.write(chunk[: left + 1])  # one byte too many is enough to be refused
                    left -= len(chunk)
                    if left < 0:
                        break
                file.flush()
                os.fsync(file.fileno())

    def _call(
        self,
        method: str,
        url: str,
        *,
        doing: str,
        expected: tuple[int, ...],
        headers: Mapping[str, str] | None = None,
        body: bytes | BinaryIO | None = None,
    ) -> tuple[bytes, Mapping[str, str]]:
        with self._open(method, url, headers=headers, body=body, expected=expected, doing=doing) as response:
            content = b""
            for chunk in _stream(response, doing):
                content += chunk
                if len(content) > MOST_BYTES:
                    raise IntegrityError(f"{self}: {doing}: more than {MOST_BYTES} bytes came")
            return content, response.headers

    @contextmanager
    def _open(
        self,
        method: str,
        url: str,
        *,
        doing: str,
        expected: tuple[int, ...],
        headers: Mapping[str, str] | None = None,
        body: bytes | BinaryIO | None = None,
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        response = self._send(method, url, headers, body)
        if response.status == 401 and (proof := self._prove(response.headers.get("WWW-Authenticate", ""))):
            response.close()
            self._authorization = proof
            if hasattr(body, "seek"):
                body.seek(0)  # type: ignore[union-attr]
            response = self._send(method, url, headers, body)
        try:
            if response.status not in expected:
                raise self._refused(response, doing)
            yield response
        finally:
            response.release_conn()
            response.close()

    def _send(
        self, method: str, url: str, headers: Mapping[str, str] | None, body: bytes | BinaryIO | None
    ) -> urllib3.BaseHTTPResponse:
        sent = dict(headers or {})
        if self._authorization and urlsplit(url).netloc == self.where.host:
            sent["Authorization"] = self._authorization
        try:
            return self._pool.request(
                method, url, headers=sent, body=body, preload_content=False, redirect=method in {"GET", "HEAD"}
            )
        except (HTTPError, OSError) as error:
            raise ServerError(
                f"{self.where.host} does not answer: {error}",
                remedy="Check the registry's address, and whether it speaks TLS (plain HTTP is for this machine only).",
            ) from error

    def _prove(self, challenge: str) -> str:
        """The header that answers a challenge; empty where nothing was tried that could help."""
        kind, _, rest = challenge.partition(" ")
        user, password = self.settings.username, self.settings.password.get_secret_value()
        basic = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        if kind.lower() == "basic":
            return basic if user and self._authorization != basic else ""
        if kind.lower() != "bearer" or self._authorization.startswith("Bearer"):
            return ""
        asked = dict(_CHALLENGE.findall(rest))
        realm = urlsplit(asked.pop("realm", ""))
        if realm.scheme != "https" and not (realm.scheme == "http" and self.where.local):
            raise ServerError(f"{self.where.host} sends for a token to {realm.geturl()!r}, which is not TLS")
        url = realm._replace(query=urlencode([*parse_qsl(realm.query), *asked.items()])).geturl()
        try:
            response = self._pool.request("GET", url, headers={"Authorization": basic} if user else {})
            found: Any = json.loads(response.data)
            return f"Bearer {found.get('token') or found['access_token']}"
        except (HTTPError, OSError, ValueError, KeyError, AttributeError) as error:
            raise UsageError(
                f"{realm.netloc} gives no token for {self.where.name} ({type(error).__name__})", remedy=_CREDENTIALS
            ) from error

    def _refused(self, response: urllib3.BaseHTTPResponse, doing: str) -> UsageError | ServerError:
        with suppress(HTTPError, OSError):
            said = response.read(2048, decode_content=True).decode("utf-8", "replace").strip()
        words = f"{self}: {doing}: the registry says {response.status} ({said or response.reason})"
        if response.status in {401, 403}:
            return UsageError(words, remedy=_CREDENTIALS)
        if response.status == 404:
            return UsageError(words, remedy="Check the name and the tag.")
        return ServerError(words)


_CREDENTIALS: Final = "Set POLICYCTL_REGISTRY__USERNAME and POLICYCTL_REGISTRY__PASSWORD."


def _stream(response: urllib3.BaseHTTPResponse, doing: str) -> Iterator[bytes]:
    try:
        yield from response.stream(_CHUNK_BYTES, decode_content=False)
    except (HTTPError, OSError) as error:
        raise ServerError(
            f"{doing}: the connection was cut ({error})", remedy="Run the command again: it goes on where it ended."
        ) from error
