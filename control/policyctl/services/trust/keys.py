"""Make a key pair to sign with: the private half for its owner alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from policyctl.adapters import files
from policyctl.adapters.signing_keys import generate
from policyctl.domain.trust import fingerprint
from policyctl.errors import UsageError


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A key pair on disk.

    Attributes:
        private: Its owner's alone (mode 0600).
        fingerprint: Of the public key: what `sha256sum` says of its file.
    """

    private: Path
    public: Path
    fingerprint: str
    encrypted: bool


def keygen(private: Path, *, passphrase: str) -> KeyPair:
    """Make a key pair on the curve P-256; the public key stands next to `private`, with the ending ``.pub``.

    Args:
        private: Where the private key goes; never overwritten.
        passphrase: Encrypts the private key; empty for none.

    Raises:
        UsageError: A file is there already, or cannot be written.
        UnsupportedError: The extra `sign` is not installed.
    """
    public = private.with_suffix(".pub")
    if public == private:
        raise UsageError(f"{private} would be the public key's name", remedy="End it with .pem, for example alice.pem.")
    for path in (private, public):
        if path.exists() or path.is_symlink():
            raise UsageError(f"{path} is there already", remedy="A key is never overwritten. Choose another name.")
    secret, open_half = generate(passphrase)
    files.write_atomically(private, secret, mode=0o600)
    files.write_atomically(public, open_half)
    return KeyPair(private, public, fingerprint(open_half.decode()), bool(passphrase))
