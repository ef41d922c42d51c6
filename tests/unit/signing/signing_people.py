"""People with key pairs, and a repository whose trust store holds one of them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from world import World

from policyctl.adapters.signing import Signer, open_signer
from policyctl.services.control import Control
from policyctl.services.trust import signatures, signing
from policyctl.services.trust import store as trust
from policyctl.services.trust.store import keygen
from policyctl.settings import load

NAMES = ("alice", "bob", "mallory")


class People:
    """Each has a private and a public key in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in NAMES:
            keygen(self.private(name), passphrase="")

    def private(self, name: str) -> Path:
        return self.folder / f"{name}.pem"

    def public(self, name: str) -> Path:
        return self.folder / f"{name}.pub"

    def signer(self, name: str) -> Signer:
        return open_signer(self.private(name), certificate=None, passphrase=lambda: "")


class SignedWorld(World):
    """A world in which Alice is trusted."""

    def __init__(self, folder: Path, monkeypatch, people: People, *, begin: bool = True) -> None:
        super().__init__(folder, monkeypatch, begin=begin)
        self.people = people
        self.trust = signatures.trust_path(self.control.settings)
        if begin:
            self.believe("alice")

    def believe(self, name: str, **kwargs) -> None:
        trust.add(self.trust, name=name, public=self.people.public(name), **kwargs)

    def revoke(self, name: str, since: datetime | None = None) -> None:
        trust.revoke(self.trust, which=name, reason="stolen", now=datetime.now(UTC), since=since)

    def asking(self, rule: str) -> Control:
        """The control plane under another rule."""
        return Control.of(load(repository=self.root, integrity={"signatures": rule}), self.said.append)

    def sign(self, release: str, who: str = "alice", **kwargs) -> signing.Signing:
        return signing.sign(self.control, self.people.signer(who), model="walker", release=release, **kwargs)

    def signed(self, release: str) -> tuple[signatures.Signed, ...]:
        state = self.state
        return signatures.of_release(self.control, state, state.release("walker", release))

    def standing(self, release: str, name: str = "alice") -> str:
        return next(s.standing.value for s in self.signed(release) if s.record.name == name)

    def reason(self, release: str, name: str = "alice") -> str:
        return next(s.reason for s in self.signed(release) if s.record.name == name)

    def slot(self, release: str) -> Path:
        return self.control.repository.slot("walker", self.state.release("walker", release).slot)

    def bundle(self, release: str, name: str = "alice") -> Path:
        return self.control.repository.control / "signatures" / "walker" / release / f"{name}.sig"
