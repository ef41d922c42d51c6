"""Signing with a certificate, and who vouches for it."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from policyctl.adapters.signing import open_signer
from policyctl.errors import UsageError
from policyctl.services.trust import signing
from policyctl.services.trust import store as trust

_NOW = datetime.now(UTC)


class Authority:
    """Issues certificates."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir()
        self.folder, self.key = folder, ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.root = folder / "root.pem"
        self._write(self.root, self._certificate(self.name, self.key.public_key(), days=(-1, 3650), ca=True))

    def issue(self, name: str, days: tuple[int, int] = (-1, 365)) -> tuple[Path, Path]:
        """A private key and the certificate of it."""
        key = ec.generate_private_key(ec.SECP256R1())
        private, certificate = self.folder / f"{name}.pem", self.folder / f"{name}.crt"
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"swordfish"),
            )
        )
        private.chmod(0o600)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._write(certificate, self._certificate(subject, key.public_key(), days=days, ca=False))
        return private, certificate

    def _certificate(self, subject, public, *, days, ca: bool) -> x509.Certificate:
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign"), False
        )
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_NOW + timedelta(days=days[0]))
            .not_valid_after(_NOW + timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=not ca, key_cert_sign=ca, encipher_only=False, decipher_only=False, **usage
                ),
                critical=True,
            )
        )
        return builder.sign(self.key, hashes.SHA256())

    def _write(self, path: Path, certificate: x509.Certificate) -> None:
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _signer(files: tuple[Path, Path], phrase: str = "swordfish"):
    return open_signer(files[0], certificate=files[1], passphrase=lambda: phrase)


@pytest.fixture
def company(tmp_path) -> Authority:
    """Who issues certificates."""
    return Authority(tmp_path / "company", "Company")


def test_a_certificate_under_a_trusted_root_counts_and_its_subject_is_shown(world, company) -> None:
    """Everybody to whom the company gave a certificate may sign; an encrypted private key works as well."""
    world.publish("1.0.0", 1)
    trust.add(world.trust, name="company", public=company.root)
    done = signing.sign(world.control, _signer(company.issue("carol")), model="walker", release="1.0.0", name="carol")
    assert (done.judged.standing, done.judged.signer) == ("trusted", "company")
    assert "CN=carol" in world.reason("1.0.0", "carol")


def test_a_certificate_of_another_authority_does_not_count(world, company, tmp_path) -> None:
    """Also where that calls itself the same."""
    world.publish("1.0.0", 1)
    trust.add(world.trust, name="company", public=company.root)
    other = Authority(tmp_path / "other", "Company")
    done = signing.sign(world.control, _signer(other.issue("carol")), model="walker", release="1.0.0", name="carol")
    assert done.judged.standing == "untrusted"
    assert "nobody in the trust store vouches for CN=carol" in done.judged.reason


def test_a_certificate_that_had_expired_when_the_journal_recorded_it_does_not_count(world, company) -> None:
    """The time of the record is what counts, and the reason says both."""
    world.publish("1.0.0", 1)
    trust.add(world.trust, name="company", public=company.root)
    late = _signer(company.issue("carol", days=(-10, -5)))
    done = signing.sign(world.control, late, model="walker", release="1.0.0", name="carol")
    assert done.judged.standing == "untrusted"
    assert "the certificate of CN=carol was valid" in done.judged.reason


def test_one_persons_certificate_is_revoked_and_the_others_count_on(world, company) -> None:
    """By the fingerprint that openssl shows of it."""
    world.publish("1.0.0", 1)
    trust.add(world.trust, name="company", public=company.root)
    carol, dave = company.issue("carol"), company.issue("dave")
    for name, files in (("carol", carol), ("dave", dave)):
        signing.sign(world.control, _signer(files), model="walker", release="1.0.0", name=name)
    shown = subprocess.run(
        ["openssl", "x509", "-in", carol[1], "-noout", "-fingerprint", "-sha256"],
        capture_output=True,
        text=True,
        check=True,
    )
    which = "sha256:" + shown.stdout.strip().partition("=")[2].replace(":", "").lower()
    trust.revoke(world.trust, which=which, reason="left", now=_NOW)
    assert world.standing("1.0.0", "carol") == "untrusted"
    assert ": left" in world.reason("1.0.0", "carol")
    assert world.standing("1.0.0", "dave") == "trusted"
    trust.revoke(world.trust, which="company", reason="broken into", now=_NOW)
    assert world.standing("1.0.0", "dave") == "untrusted"


def test_a_certificate_of_another_key_is_refused_before_anything_is_signed(company) -> None:
    """And a wrong pass phrase, and a file that holds no certificate."""
    carol, dave = company.issue("carol"), company.issue("dave")
    with pytest.raises(UsageError, match="is of another key"):
        _signer((carol[0], dave[1]))
    with pytest.raises(UsageError, match="pass phrase is wrong"):
        _signer(carol, "wrong")
    with pytest.raises(UsageError, match="holds no certificate"):
        _signer((carol[0], carol[0]))


def test_a_signer_never_shows_its_private_key(company) -> None:
    """Neither in a log line nor in a traceback that prints it."""
    signer = _signer(company.issue("carol"))
    assert "PRIVATE" not in repr(signer)
    assert "PRIVATE" not in f"{signer}"
