"""Random corruptions of a repository: how many are found, by kind, and do the refusals name the file?

    python benchmarks/corruptions.py --count 10000 --seed 1

Publishes a few small releases, judges and records them, and then corrupts one
thing at a time, at random: a bit, an end, a swap, a link, an addition, a
manifest, a signature, the journal. After each it asks `verify` (and, for the journal, its
audit with the head that was noted before) and undoes the corruption. A
corruption counts as refused only if what is refused names the file. Exits with
1 unless all were.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from policyctl.adapters import files
from policyctl.adapters.signing import open_signer
from policyctl.domain.contract import ActionKind, Contract
from policyctl.domain.golden import Golden
from policyctl.domain.manifest import Manifest, canonical_json, digest_of
from policyctl.domain.parity import Tolerance
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import PolicyctlError
from policyctl.integrity import build_manifest
from policyctl.services.control import Control
from policyctl.services.integrity.journal import prove
from policyctl.services.integrity.verify import verify
from policyctl.services.moves.validate import validate
from policyctl.services.releases.publish import publish
from policyctl.services.trust import store as trust
from policyctl.services.trust.signatures import trust_path
from policyctl.services.trust.signing import sign
from policyctl.services.trust.store import keygen
from policyctl.settings import load

CONTRACT = Contract(
    observations=(TensorSpec("observation", "float32", (3,)),),
    outputs=(TensorSpec("action", "float32", (1,), low=-1.0, high=1.0),),
    action_kind=ActionKind.CONTINUOUS,
)
Undo = Callable[[], object]
Corruption = Callable[["Repository"], tuple[str, Undo] | None]


class Repository:
    """A repository that can be corrupted and put right again."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.rng = rng
        self.folder = folder
        self.control = Control.of(load(repository=folder / "model_repository"))
        self.root = self.control.repository.root
        for number, release in enumerate(("1.0.0", "1.1.0", "2.0.0")):
            for model in ("walker", "runner"):
                publish(self.control, _export(folder / f"{model}{release}", number), model=model, release=release)
                validate(self.control, model=model, release=release)
        self.signatures = self._sign()
        self.journal = self.control.repository.journal.path
        self.lines = self.journal.read_bytes().splitlines(keepends=True)
        self.head = digest_of(self.lines[-1])
        self.slots = sorted(p for p in self.root.glob("*/[0-9]") if p.is_dir())
        for path in self.root.rglob("*"):
            if path.is_dir():
                path.chmod(0o755)

    def _sign(self) -> list[Path]:
        """Have two releases signed by somebody who is trusted, and one of them by a second one."""
        signatures = []
        for name, releases in (("alice", ("1.0.0", "2.0.0")), ("bob", ("1.0.0",))):
            pair = keygen(self.folder / f"{name}.pem", passphrase="")
            trust.add(trust_path(self.control.settings), name=name, public=pair.public)
            signer = open_signer(pair.private, certificate=None, passphrase=str)
            for release in releases:
                signatures.append(sign(self.control, signer, model="walker", release=release).file)
        return [path if path.is_absolute() else self.root / ".policyctl" / path for path in signatures]

    def slot(self) -> Path:
        """Any slot."""
        return self.rng.choice(self.slots)

    def file(self, folder: Path | None = None, *, manifest: bool = False) -> Path:
        """Any file of a release."""
        files = sorted(p for p in (folder or self.slot()).iterdir() if p.is_file())
        return self.rng.choice([p for p in files if (p.name == "manifest.json") is manifest])

    def refusals(self) -> str:
        """What is said against the repository as it is; empty where nothing is."""
        try:
            wrong = [f"{f.what}: {f.detail}" for f in verify(self.control) if not f.intact]
            proof = prove(self.control, expected_head=self.head)
            return "\n".join([*wrong, *(f"{proof.path}: {b.words}" for b in proof.breaks)])
        except PolicyctlError as error:
            return f"{error.problem} {error.remedy}"


def _export(folder: Path, seed: int) -> Path:
    """What an export would write, small."""
    rng = np.random.default_rng(seed)
    golden = Golden(
        {"observation": rng.normal(size=(4, 3)).astype(np.float32)},
        {"action": rng.uniform(-1, 1, size=(4, 1)).astype(np.float32)},
        Tolerance(),
    )
    folder.mkdir()
    (folder / "model.onnx").write_bytes(rng.bytes(3000))
    (folder / "contract.json").write_bytes(canonical_json(CONTRACT.to_json()))
    (folder / "golden.npz").write_bytes(golden.to_bytes())
    listed = {"model.onnx": digest_of((folder / "model.onnx").read_bytes())}
    comparisons = {"onnx": {"comparisons": [{"agrees": True, "rows": 4}], "files": listed}}
    (folder / "parity.json").write_bytes(canonical_json({"schema": 1, "formats": comparisons}))
    (folder / "model_card.yaml").write_text(f"schema_version: 2\nname: seed {seed}\n")
    return folder


def _replaced(path: Path, content: bytes) -> tuple[str, Undo]:
    before = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    return path.name, lambda: (path.unlink(), path.write_bytes(before), path.chmod(0o444))


def _flipped(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def bit_flip(r: Repository) -> tuple[str, Undo]:
    """One bit of one file."""
    path = r.file()
    return _replaced(path, _flipped(r.rng, path.read_bytes()))


def truncation(r: Repository) -> tuple[str, Undo]:
    """The end of a file is gone."""
    path = r.file()
    content = path.read_bytes()
    return _replaced(path, content[: r.rng.randrange(len(content))])


def extension(r: Repository) -> tuple[str, Undo]:
    """Bytes after the end of a file."""
    path = r.file()
    return _replaced(path, path.read_bytes() + r.rng.randbytes(r.rng.randint(1, 64)))


def removal(r: Repository) -> tuple[str, Undo]:
    """A file is gone."""
    path, aside = r.file(), r.folder / "aside"
    path.rename(aside)
    return path.name, lambda: aside.rename(path)


def swapped_files(r: Repository) -> tuple[str, Undo] | None:
    """Two files of one release, or the same file of two releases, have changed places."""
    one = r.file()
    other = r.file(one.parent) if r.rng.random() < 0.5 else r.slot() / one.name
    if one.read_bytes() == other.read_bytes():
        return None

    def swap() -> None:
        aside = r.folder / "aside"
        one.rename(aside)
        other.rename(one)
        aside.rename(other)

    swap()
    return one.name, swap


def link(r: Repository) -> tuple[str, Undo]:
    """A file, or a whole slot, is a symbolic link; what it leads to is right."""
    path = r.file() if r.rng.random() < 0.8 else r.slot()
    aside = r.folder / "aside"
    path.rename(aside)
    path.symlink_to(aside)

    def undo() -> None:
        path.unlink()
        aside.rename(path)

    return str(path.relative_to(r.root)) if path in r.slots else path.name, undo


def added_file(r: Repository) -> tuple[str, Undo]:
    """A file, hidden or not, a folder, a pipe or a link that no manifest lists."""
    folder = r.slot()
    name = r.rng.choice(["extra.bin", ".hidden", "model.plan", "Model.onnx", "manifest.json.bak", "sub", "pipe", "to"])
    path = folder / name
    if name == "sub":
        path.mkdir()
    elif name == "pipe":
        os.mkfifo(path)
    elif name == "to":
        path.symlink_to("model.onnx")
    else:
        path.write_bytes(r.rng.randbytes(r.rng.randrange(16)))
    return name, lambda: path.rmdir() if name == "sub" else path.unlink()


def stranger(r: Repository) -> tuple[str, Undo]:
    """A slot, or something in the root, that no record names."""
    name = r.rng.choice(["walker/7", "walker.canary", "jumper", "note.txt"])
    path = r.root / name
    if name.endswith(".txt"):
        path.write_text("x")
        return path.name, path.unlink
    shutil.copytree(r.slot(), path)
    return name, lambda: files.remove_tree(path)


def edited_manifest(r: Repository) -> tuple[str, Undo]:
    """A manifest with another bit, or one that was made again to fit a changed file."""
    folder = r.slot()
    path = folder / "manifest.json"
    if r.rng.random() < 0.5:
        return _replaced(path, _flipped(r.rng, path.read_bytes()))
    changed = r.file(folder)
    _, undo_file = _replaced(changed, _flipped(r.rng, changed.read_bytes()))
    old = Manifest.from_bytes(path.read_bytes())
    made = build_manifest(folder, model=old.model, release=old.release).to_bytes()
    _, undo_manifest = _replaced(path, made)

    def undo() -> None:
        undo_manifest()
        undo_file()

    return "manifest.json", undo


def edited_evidence(r: Repository) -> tuple[str, Undo]:
    """What a gate saw is changed, cut or gone."""
    path = r.rng.choice(sorted((r.root / ".policyctl" / "evidence").rglob("*.json")))
    content = path.read_bytes()
    if r.rng.random() < 0.2:
        path.unlink()
        return path.name, lambda: path.write_bytes(content)
    changed = content[: r.rng.randrange(len(content))] if r.rng.random() < 0.3 else _flipped(r.rng, content)
    path.write_bytes(changed)
    return path.name, lambda: path.write_bytes(content)


def swapped_signatures(r: Repository) -> tuple[str, Undo]:
    """Two signatures, of two releases or of two people, have changed places."""
    one, other = r.rng.sample(r.signatures, 2)

    def swap() -> None:
        aside = r.folder / "aside"
        one.rename(aside)
        other.rename(one)
        aside.rename(other)

    swap()
    return f"signature {one.stem}", swap


def edited_signature(r: Repository) -> tuple[str, Undo]:
    """A signature is changed, cut or gone, or one lies there that nobody recorded."""
    path = r.rng.choice(r.signatures)
    match r.rng.randrange(4):
        case 0:
            added = path.with_name("mallory.sig")
            added.write_bytes(path.read_bytes())
            return added.name, added.unlink
        case 1:
            aside = r.folder / "aside"
            path.rename(aside)
            return f"signature {path.stem}", lambda: aside.rename(path)
        case 2:
            _, undo = _replaced(path, path.read_bytes()[: r.rng.randrange(path.stat().st_size)])
        case _:
            _, undo = _replaced(path, _flipped(r.rng, path.read_bytes()))
    return f"signature {path.stem}", undo


def edited_journal(r: Repository) -> tuple[str, Undo] | None:
    """A line with another bit, or another value; lines removed, doubled, moved, or cut off the end."""
    lines = list(r.lines)
    index = r.rng.randrange(len(lines))
    match r.rng.randrange(6):
        case 0:
            lines = _flipped(r.rng, b"".join(lines)).splitlines(keepends=True)
        case 1:
            line = json.loads(lines[index])
            key = r.rng.choice(["actor", "time", "seq", "prev", "kind", "body"])
            if key == "body":
                inner = r.rng.choice(sorted(line["body"]))
                line["body"][inner] = f"{line['body'][inner]}x"
            else:
                line[key] = r.rng.randrange(99) if key == "seq" else f"{line[key]}x"
            lines[index] = canonical_json(line)
        case 2:
            del lines[index]
        case 3:
            lines.insert(r.rng.randrange(len(lines) + 1), lines[index])
        case 4:
            r.rng.shuffle(lines)
        case _:
            lines = lines[: r.rng.randrange(1, len(lines))]
    if lines == r.lines:
        return None
    r.journal.write_bytes(b"".join(lines))
    return "journal", lambda: r.journal.write_bytes(b"".join(r.lines))


KINDS: dict[str, Corruption] = {
    "bit flip": bit_flip,
    "truncation": truncation,
    "extension": extension,
    "removed file": removal,
    "swapped files": swapped_files,
    "symbolic link": link,
    "added file": added_file,
    "stranger": stranger,
    "edited manifest": edited_manifest,
    "edited evidence": edited_evidence,
    "swapped signatures": swapped_signatures,
    "edited signature": edited_signature,
    "edited journal": edited_journal,
}


def main() -> int:
    """Run it; 0 if every corruption was refused by name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="policyctl-corruptions-") as name:
        repository = Repository(Path(name), random.Random(given.seed))
        made, refused, missed = run(repository, given.count)
        with suppress(OSError):
            files.remove_tree(repository.root)
    document = {
        "count": sum(made.values()),
        "refused": sum(refused.values()),
        "seed": given.seed,
        "seconds": round(time.monotonic() - started, 1),
        "kinds": {kind: {"made": made[kind], "refused": refused[kind]} for kind in KINDS},
        "missed": missed[:20],
    }
    if given.json:
        print(json.dumps(document, indent=1))
    else:
        for kind in KINDS:
            print(f"{kind:<20} {made[kind]:6} made {refused[kind]:6} refused by name")
        print(f"{'all':<20} {document['count']:6} made {document['refused']:6} refused by name")
        for each in missed[:20]:
            print(f"MISSED: {each}")
    return 0 if document["count"] == document["refused"] == given.count else 1


def run(repository: Repository, count: int) -> tuple[Counter[str], Counter[str], list[str]]:
    """Corrupt `count` times; how many of each kind, how many were refused, and what was missed."""
    made: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    missed: list[str] = []
    if said := repository.refusals():
        raise RuntimeError(f"the repository was not intact to begin with: {said}")
    while made.total() < count:
        kind = repository.rng.choice(list(KINDS))
        done = KINDS[kind](repository)
        if done is None:
            continue
        name, undo = done
        made[kind] += 1
        said = repository.refusals()
        undo()
        if name in said:
            refused[kind] += 1
        else:
            missed.append(f"{kind} of {name}: {said or 'nothing was said'}")
    if said := repository.refusals():
        raise RuntimeError(f"a corruption was not undone: {said}")
    return made, refused, missed


if __name__ == "__main__":
    sys.exit(main())
