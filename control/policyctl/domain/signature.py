"""What a signature says: an OpenSSF Model Signing bundle, read without believing it.

A bundle is a Sigstore bundle in JSON: who signed (a key's hint, or
certificates), and a signed statement that lists every file with its digest.
This module only reads it and holds its list against a release; whether the
signature itself is right is computed by `adapters.signing`.

Law: a bundle covers a release only if it lists exactly the files of the
release's manifest and the manifest itself, each by SHA-256. A bundle that
leaves a file out (``ignore_paths``) is a right signature of something else.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from policyctl.domain.artifacts import MANIFEST_FILE
from policyctl.domain.json_values import OMIT, fields_to_json, from_json
from policyctl.domain.manifest import Manifest, digest_of
from policyctl.errors import IntegrityError

_STATEMENT: Final = "https://model_signing/signature/v1.0"
_STATEMENT_BEFORE_1_0: Final = "https://model_signing/Digests/v0.1"
LARGEST_BYTES: Final = 16 << 20


class Method(StrEnum):
    """With what a release was signed."""

    KEY = "key"
    CERTIFICATE = "certificate"
    KEYLESS = "keyless"
    """By an identity, with a certificate of some minutes from Sigstore."""


@dataclass(frozen=True, slots=True)
class SignatureRecord:
    """A signature as the journal has it.

    Attributes:
        model: Of which model.
        release: Of which release.
        manifest_digest: What it signs.
        name: Names the signature among those of the release.
        method: With what.
        key: Fingerprint of the key, or of the signing certificate.
        file: The bundle, relative to the control folder.
        digest: Digest of the bundle.
        time: When it was recorded: no earlier than any record before it.
        actor: Who recorded it.
    """

    model: str
    release: str
    manifest_digest: str
    name: str
    method: Method
    key: str
    file: str
    digest: str
    time: str = field(metadata=OMIT)
    actor: str = field(metadata=OMIT)

    @classmethod
    def from_body(cls, body: Mapping[str, Any], *, time: str, actor: str) -> SignatureRecord:
        """Read what `to_body` wrote.

        Raises:
            UsageError: It describes no signature.
        """
        renamed = {"file": body.get("signature"), "digest": body.get("signature_digest")}
        return from_json(cls, {**body, **renamed, "time": time, "actor": actor}, what="signature", unknown_keys=True)

    def to_body(self) -> dict[str, str]:
        """The body of the journal's record."""
        fields = fields_to_json(self)
        return {"signature": fields.pop("file"), "signature_digest": fields.pop("digest"), **fields}


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a bundle says of itself; nothing of it is proven.

    Attributes:
        method: With what it was made.
        key: Fingerprint of the key (``sha256:...``); empty for certificates.
        certificates: DER, the signing certificate first; none for a key.
        digests: What the statement lists: path to ``algorithm:hex``.
    """

    method: Method
    key: str
    certificates: tuple[bytes, ...]
    digests: Mapping[str, str]

    @property
    def signer(self) -> str:
        """Fingerprint of the key, or of the signing certificate."""
        return digest_of(self.certificates[0]) if self.certificates else self.key

    @classmethod
    def from_bytes(cls, content: bytes, *, where: str) -> Bundle:
        """Read a bundle.

        Args:
            content: The bundle's JSON.
            where: Its file, for the error.

        Raises:
            IntegrityError: It is not a bundle, or lists a file twice.
        """
        try:
            if len(content) > LARGEST_BYTES:
                raise ValueError(f"{len(content)} bytes are too many")
            data = json.loads(content)
            material, envelope = data["verificationMaterial"], data["dsseEnvelope"]
            method, certificates = _certificates(material)
            key = _fingerprint(material["publicKey"]) if method is Method.KEY else ""
            statement = json.loads(_decode(envelope["payload"]))
            return cls(method, key, certificates, _digests(statement))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            raise IntegrityError(
                f"{where} is not an OpenSSF model signing bundle ({type(error).__name__}: {error})",
                remedy="Restore the file from a copy, or sign again: policyctl sign",
            ) from error

    def differences(self, covered: Mapping[str, str]) -> tuple[str, ...]:
        """Every way in which what was signed is not `covered`, as sentences that name the file."""
        signed = self.digests
        problems = [f"it does not cover {path}" for path in sorted(covered.keys() - signed.keys())]
        problems += [f"it covers {path}, which is not there" for path in sorted(signed.keys() - covered.keys())]
        for path in sorted(covered.keys() & signed.keys()):
            if signed[path] != covered[path]:
                problems.append(f"{path} is {covered[path]}, signed was {signed[path]}")
        return tuple(problems)


def covered_by(manifest: Manifest) -> dict[str, str]:
    """What a signature of a release must list: every file of its manifest, and the manifest."""
    return {**{entry.path: entry.digest for entry in manifest.files}, MANIFEST_FILE: manifest.digest}


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from error


def _fingerprint(key: Mapping[str, Any]) -> str:
    if hint := key.get("hint"):
        return f"sha256:{hint}"
    # Versions of the library before 1.1 put the key itself there, as PEM.
    return digest_of(_decode(key["rawBytes"]))


def _certificates(material: Mapping[str, Any]) -> tuple[Method, tuple[bytes, ...]]:
    if "publicKey" in material:
        return Method.KEY, ()
    if "certificate" in material:
        return Method.KEYLESS, (_decode(material["certificate"]["rawBytes"]),)
    chain = tuple(_decode(c["rawBytes"]) for c in material["x509CertificateChain"]["certificates"])
    if not chain:
        raise ValueError("no certificate")
    # A log entry is what a short-lived certificate of Sigstore is worth something by.
    return (Method.KEYLESS if material.get("tlogEntries") else Method.CERTIFICATE), chain


def _digests(statement: Mapping[str, Any]) -> dict[str, str]:
    kind = statement["predicateType"]
    if kind == _STATEMENT:
        listed = [(r["name"], f"{r['algorithm']}:{r['digest']}") for r in statement["predicate"]["resources"]]
    elif kind == _STATEMENT_BEFORE_1_0:
        listed = [(s["name"], f"sha256:{s['digest']['sha256']}") for s in statement["subject"]]
    else:
        raise ValueError(f"statement {kind!r}, expected {_STATEMENT}")
    found = dict(listed)
    if len(found) != len(listed):
        raise ValueError("a file is listed twice")
    return found
