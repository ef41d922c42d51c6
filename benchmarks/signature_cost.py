"""What it costs to ask whether a release is signed by a trusted key.

Makes a small signed release in a temporary folder and asks as `promote` and the
start of the server do: once in a fresh process, which imports OpenSSF's
library, and then again and again.

    .venv/bin/python benchmarks/signature_cost.py --asks 200
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from policyctl.adapters.signing import open_signer
from policyctl.domain.journal import RecordKind
from policyctl.domain.manifest import digest_of
from policyctl.integrity import build_manifest
from policyctl.services import trust
from policyctl.services.control import Control
from policyctl.services.signatures import require_signed, trust_path
from policyctl.services.signing import sign as sign_release
from policyctl.settings import load


def release(control: Control, size_bytes: int) -> None:
    """A release of one file, recorded as published; nothing of it is ever served."""
    repository = control.repository
    repository.create()
    repository.begin_journal()
    slot = repository.slot("walker", 1)
    slot.mkdir(parents=True)
    (slot / "model.onnx").write_bytes(bytes(size_bytes))
    manifest = build_manifest(slot, model="walker", release="1.0.0").to_bytes()
    (slot / "manifest.json").write_bytes(manifest)
    body = {"model": "walker", "release": "1.0.0", "slot": 1, "manifest_digest": digest_of(manifest)}
    repository.journal.append(RecordKind.PUBLISHED, body)


def make_keys(folder: Path) -> Path:
    """A key pair made by openssl, so that this process imports no cryptography before it is timed."""
    private, public = folder / "key.pem", folder / "key.pub"
    for command in (
        ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(private)],
        ["openssl", "pkey", "-in", str(private), "-pubout", "-out", str(public)],
    ):
        subprocess.run(command, check=True, capture_output=True)
    return private


def main() -> None:
    """Print the two figures."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--asks", type=int, default=200, help="how often to ask once the library is there")
    arguments.add_argument("--size", type=int, default=4096, help="bytes of the release's one file")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        control = Control.of(load(repository=folder / "repository", integrity={"signatures": "required"}))
        release(control, given.size)
        sign_in_another_process(control, make_keys(folder))
        state = control.repository.journal.state()
        published = state.release("walker", "1.0.0")
        seconds = []
        for _ in range(given.asks + 1):
            started = time.perf_counter()
            require_signed(control, state, published)
            seconds.append(time.perf_counter() - started)
    print(f"first {seconds[0] * 1e3:.0f} ms, then a median of {statistics.median(seconds[1:]) * 1e3:.2f} ms")


def sign_in_another_process(control: Control, private: Path) -> None:
    """Sign the release and trust the key, in a child, so that the library is not imported here."""
    child = multiprocessing.get_context("spawn").Process(target=sign, args=(control.repository.root, private))
    child.start()
    child.join()
    if child.exitcode != 0:
        raise SystemExit("signing failed")


def sign(root: Path, private: Path) -> None:
    """Trust the key, and sign the release with it."""
    control = Control.of(load(repository=root))
    trust.add(trust_path(control.settings), name="key", public=private.with_suffix(".pub"))
    signer = open_signer(private, certificate=None, passphrase=str)
    sign_release(control, signer, model="walker", release="1.0.0")


if __name__ == "__main__":
    main()
