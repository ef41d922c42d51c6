"""Make and check signatures: the one place that knows OpenSSF's library and cryptography.

The library makes and checks the bundles, by its public interface, so they are
what its own command line makes and takes. It is not given the files: what it
signs, or holds a signature against, are the digests that `integrity` has just
computed, so every byte is read once, by one reader, and no rule of the library
about which files to skip has a say.

Keys and bundles are handed over in files that exist in memory only: a private
key with a pass phrase is never decrypted to a disk, and a bundle is checked by
the very bytes that were hashed.

Both packages come with the extra ``sign`` and are imported when they are needed.
"""

from __future__ import annotations

import contextlib
import io
import os
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policyctl.adapters import files
from policyctl.adapters.signing_keys import describe_certificate, read_chain, read_private, require_library
from policyctl.domain.signature import Method
from policyctl.domain.trust import Trusted, TrustKind, fingerprint
from policyctl.errors import IntegrityError, UsageError


class NotVouchedError(IntegrityError):
    """A signature that may be right, by somebody whom a trusted certificate or identity does not vouch for."""


@dataclass(frozen=True, slots=True)
class Signer:
    """The key or identity that signs.

    Attributes:
        method: With what.
        fingerprint: Of the key, or of the signing certificate; empty for an identity.
        public_pem: The public key; empty for an identity.
    """

    method: Method
    fingerprint: str
    public_pem: str
    _private_pem: bytes = b""
    _certificates: tuple[str, ...] = ()
    _token: str = ""

    def __repr__(self) -> str:
        """Without the private key, wherever it may be printed."""
        return f"Signer({self.method}, {self.fingerprint})"

    def sign(self, name: str, covered: Mapping[str, str]) -> bytes:
        """A bundle that signs `covered`.

        Args:
            name: What is signed, in words; part of the statement, and believed by nobody.
            covered: Path to ``sha256:hex``.

        Raises:
            UsageError: The library refuses the key or the certificate, or Sigstore cannot be reached.
        """
        library = require_library()
        with ExitStack() as stack:
            config = library.signing.Config().set_hashing_config(_known(name, covered))
            result = stack.enter_context(_in_memory(b""))
            try:
                if self.method is Method.KEYLESS:
                    token = {"identity_token": self._token} if self._token else {"use_ambient_credentials": True}
                    config.use_sigstore_signer(**token)
                else:
                    private = stack.enter_context(_in_memory(self._private_pem))
                    if self.method is Method.KEY:
                        config.use_elliptic_key_signer(private_key=private)
                    else:
                        certificates = [stack.enter_context(_in_memory(c.encode())) for c in self._certificates]
                        config.use_certificate_signer(
                            private_key=private,
                            signing_certificate=certificates[0],
                            # The library refuses an empty chain, which a certificate right under its root has.
                            certificate_chain=certificates[1:] or certificates,
                        )
                config.sign(Path(name), result)
            except Exception as error:  # the library's own errors have no class in common
                raise UsageError(
                    f"{name} could not be signed ({type(error).__name__}: {error})",
                    remedy="Check the key and the certificate; keyless signing needs a network and an identity.",
                ) from error
            return result.read_bytes()


def open_signer(key: Path, *, certificate: Path | None, passphrase: Callable[[], str]) -> Signer:
    """Read a private key, and the certificates that go with it.

    Args:
        key: PEM: an elliptic-curve key, encrypted or not.
        certificate: PEM: the signing certificate, then whatever links it to its root.
        passphrase: Asked only where the key is encrypted.

    Raises:
        UsageError: A file cannot be used, the pass phrase is wrong, or key and
            certificate are not of one pair.
    """
    require_library()
    pem, public_pem = read_private(key, passphrase)
    if certificate is None:
        return Signer(Method.KEY, fingerprint(public_pem), public_pem, pem)
    chain = read_chain(certificate)
    found = describe_certificate(chain[0])
    if found.key != fingerprint(public_pem):
        raise UsageError(
            f"{certificate}: its first certificate ({found.subject}) is of another key than {key}",
            remedy="The signing certificate stands first, then those that link it to its root.",
        )
    pems = tuple(map(ssl.DER_cert_to_PEM_cert, chain))
    return Signer(Method.CERTIFICATE, found.fingerprint, public_pem, pem, pems)


def keyless_signer(token: str = "") -> Signer:
    """Sign by an identity that Sigstore vouches for.

    Args:
        token: An identity token (OIDC); empty for the one of the machine (in CI), or a browser.
    """
    require_library()
    return Signer(Method.KEYLESS, "", "", _token=token)


def check(content: bytes, name: str, covered: Mapping[str, str], trusted: Trusted) -> None:
    """Refuse a bundle that is not a right signature of `covered` by `trusted`.

    Args:
        content: The bundle's bytes.
        name: What is signed, in words.
        covered: Path to ``sha256:hex``.
        trusted: Whose signature it must be.

    Raises:
        IntegrityError: It is not; a `NotVouchedError` where that says nothing against the signature itself.
    """
    library = require_library()
    from cryptography.exceptions import InvalidSignature

    with ExitStack() as stack:
        config = library.verifying.Config().set_hashing_config(_known(name, covered))
        if b'"hint"' not in content:
            # The library warns of bundles by versions before 1.1 on stdout, which is for data.
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        try:
            pem = stack.enter_context(_in_memory(trusted.pem.encode()))
            match trusted.kind:
                case TrustKind.KEY:
                    config.use_elliptic_key_verifier(public_key=pem)
                case TrustKind.CERTIFICATE:
                    config.use_certificate_verifier(certificate_chain=[pem])
                case _:
                    config.use_sigstore_verifier(identity=trusted.identity, oidc_issuer=trusted.issuer)
            config.verify(Path(name), stack.enter_context(_in_memory(content)))
        except Exception as error:  # the library's own errors have no class in common
            words = f"{type(error).__name__}: {error}".rstrip(": ")
            wrong = trusted.kind is TrustKind.KEY or isinstance(error, InvalidSignature)
            raise (IntegrityError if wrong else NotVouchedError)(
                f"not a signature by {trusted.name} ({words})"
            ) from error


@contextmanager
def _in_memory(content: bytes) -> Iterator[Path]:
    """A file with `content` that no disk ever sees."""
    descriptor = os.memfd_create("policyctl", os.MFD_CLOEXEC)
    try:
        files.write_all(descriptor, content)
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _known(name: str, covered: Mapping[str, str]) -> Any:
    """The library's way to hash a folder, for one whose digests are known."""
    library = require_library()
    manifest, digest = library.manifest, library.hashing.hashing.Digest

    class Known(library.hashing.Config):  # type: ignore[misc, name-defined]
        def hash(self, model_path: Path, *, files_to_hash: Sequence[Path] | None = None) -> Any:
            kind = manifest.SerializationType.from_args(
                {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
            )
            items = []
            for path, text in sorted(covered.items()):
                algorithm, _, value = text.partition(":")
                items.append(kind.new_item(path, digest(algorithm, bytes.fromhex(value))))
            return manifest.Manifest(name, items, kind)

    return Known()
