"""Read and make keys and certificates in PEM.

`cryptography` comes with the extra ``sign`` and is imported when it is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from policyctl.domain.trust import TrustKind, fingerprint, fingerprint_of_der
from policyctl.errors import IntegrityError, UnsupportedError, UsageError
from policyctl.plain_files import NOTE_BYTES, read_plain, unreadable

_CURVES = ("secp256r1", "secp384r1", "secp521r1")


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says of itself.

    Attributes:
        subject: Whom it names.
        fingerprint: Of its DER.
        key: Fingerprint of the public key in it.
        not_before: From when it is valid.
        not_after: Until when.
    """

    subject: str
    fingerprint: str
    key: str
    not_before: datetime
    not_after: datetime


def require_library() -> Any:
    """The library `model_signing`.

    Raises:
        UnsupportedError: It is not installed; says what to type.
    """
    try:
        import model_signing
    except ImportError as error:
        raise UnsupportedError(
            f"signatures need OpenSSF's package model-signing ({error})",
            remedy="Install it: pip install 'policyctl[sign]'",
        ) from error
    return model_signing


def read_public(path: Path) -> tuple[str, TrustKind]:
    """The public key, or the certificate, in a PEM file, in its usual text.

    Raises:
        UsageError: It is neither, or a key that signs nothing here, or a private one.
    """
    require_library()
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

    text = read_text(path)
    if "PRIVATE KEY" in text:
        raise UsageError(f"{path} is a private key", remedy="Give the public one; this one stays with its owner.")
    try:
        if "CERTIFICATE" in text:
            found = x509.load_pem_x509_certificate(text.encode())
            return found.public_bytes(Encoding.PEM).decode(), TrustKind.CERTIFICATE
        public = load_pem_public_key(text.encode())
        _check_curve(public, path)
        return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(), TrustKind.KEY
    except ValueError as error:
        raise UsageError(f"{path} is neither a public key nor a certificate in PEM ({error})") from error


def describe_certificate(der: bytes) -> Certificate:
    """What a certificate says of itself.

    Raises:
        IntegrityError: It is not a certificate.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    try:
        found = x509.load_der_x509_certificate(der)
        key = found.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return Certificate(
            subject=found.subject.rfc4514_string(),
            fingerprint=fingerprint_of_der(der),
            key=fingerprint(key.decode()),
            not_before=found.not_valid_before_utc,
            not_after=found.not_valid_after_utc,
        )
    except ValueError as error:
        raise IntegrityError(f"not a certificate ({error})") from error


def generate(passphrase: str) -> tuple[bytes, bytes]:
    """A fresh key pair on P-256, as PEM: the private half, encrypted by a pass phrase if any, and the public."""
    require_library()
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        KeySerializationEncryption,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    private = ec.generate_private_key(ec.SECP256R1())
    encryption: KeySerializationEncryption = NoEncryption()
    if passphrase:
        encryption = BestAvailableEncryption(passphrase.encode())
    return (
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption),
        private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    )


def read_chain(path: Path) -> tuple[bytes, ...]:
    """The certificates in a PEM file, each as DER, in their order.

    Raises:
        UsageError: It cannot be read, or holds no certificate.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        chain = x509.load_pem_x509_certificates(read_text(path).encode())
    except ValueError as error:
        raise UsageError(
            f"{path} holds no certificate in PEM ({error})", remedy="Give the signing certificate first."
        ) from error
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in chain)


def read_private(path: Path, passphrase: Callable[[], str]) -> tuple[bytes, str]:
    """A private key, decrypted, and its public key, both as PEM.

    Args:
        path: PEM, encrypted or not.
        passphrase: Asked only where it is encrypted.

    Raises:
        UsageError: It cannot be read or used, or the pass phrase is wrong.
    """
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
        load_pem_private_key,
    )

    content = read_text(path).encode()
    try:
        try:
            private = load_pem_private_key(content, None)
        except TypeError:  # it is encrypted
            private = load_pem_private_key(content, passphrase().encode())
    except ValueError as error:
        raise UsageError(
            f"{path}: not a private key in PEM, or the pass phrase is wrong",
            remedy="Make a key: policyctl trust keygen. The pass phrase is asked, or POLICYCTL_INTEGRITY__PASSPHRASE.",
        ) from error
    public = private.public_key()
    _check_curve(public, path)
    return (
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
    )


def _check_curve(public: Any, path: Path) -> None:
    curve = getattr(getattr(public, "curve", None), "name", type(public).__name__)
    if curve not in _CURVES:
        raise UsageError(
            f"{path}: a key of {curve}, expected the elliptic curve P-256 (or P-384, P-521)",
            remedy="Make one with: policyctl trust keygen",
        )


def read_text(path: Path) -> str:
    """A PEM file of somebody's.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        return read_plain(path, most_bytes=NOTE_BYTES, follow_links=True).decode()
    except OSError as error:
        raise unreadable(path, error, remedy="Name a PEM file.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: it is not text", remedy="Name a PEM file.") from error
