"""How long a promotion, a rollback and a look take, by number of releases and by size of the artifact.

    python benchmarks/move_times.py --releases 10 1000 10000 --sizes 100K 100M 1G
    python benchmarks/move_times.py --other ../earlier  # and another checkout, after `make setup` there, in turn

On one real Triton for each row. What is timed is what a person waits for: the
whole process of a command, or one whole call of the control API. Rounds go
through all ways and checkouts in turn. All releases but two exist in the
journal alone, a hundred for each model: nothing else about them costs a move.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import urllib3

from policyctl.demo.background_server import COMMAND, BackgroundServer, persons_environment
from policyctl.demo.place import ARCHIVES
from policyctl.domain.artifacts import FILES, PARITY_FILE, Format
from policyctl.domain.journal import Head, Record, RecordKind
from policyctl.domain.manifest import digest_of
from policyctl.domain.tokens import Scope
from policyctl.services.control import Control
from policyctl.services.releases.publish import publish
from policyctl.services.rollout.promote import promote
from policyctl.services.trust.tokens import create
from policyctl.settings import load as load_settings
from policyctl_exporters import export_policy
from promotions import RELEASES

MODEL = "cartpole"
UNITS = {"K": 10**3, "M": 10**6, "G": 10**9}
A_MODEL = 100
"""Releases of each model that is there to fill the journal."""


def main() -> None:
    """Run it and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--releases", type=int, nargs="+", default=[10, 1000, 10_000])
    parser.add_argument("--sizes", nargs="+", default=["100K", "100M"], help="of one artifact: 100K, 100M, 1G")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--other", type=Path, help="another checkout with its .venv, measured in turn with this one")
    given = parser.parse_args()
    sides: dict[str, tuple[str, ...]] = {"this tree": COMMAND}
    if given.other:
        interpreter = str(given.other.resolve() / ".venv" / "bin" / "python")
        sides = {given.other.name: (interpreter, *COMMAND[1:]), **sides}
    print("| releases | artifact | checkout | promote ms | status ms | rollback ms | rollback by API ms |")
    print("|---|---|---|---|---|---|---|")
    for size in given.sizes:
        for releases in given.releases:
            for side, times in measure(sides, releases, int(size[:-1]) * UNITS[size[-1]], given.rounds).items():
                cells = " | ".join(f"{statistics.median(each):.0f}" for each in times.values())
                print(f"| {releases} | {size}B | {side} | {cells} |", flush=True)


def measure(
    sides: dict[str, tuple[str, ...]], releases: int, size_bytes: int, rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Milliseconds by side and by way, one for each round."""
    with tempfile.TemporaryDirectory(prefix="policyctl-moves-") as name, ExitStack() as stack:
        folder = Path(name)
        control = Control.of(load_settings(repository=folder / "model_repository"))
        for release in RELEASES:
            publish(control, exported(folder / release, release, size_bytes), model=MODEL, release=release)
            shutil.rmtree(folder / release)
        fill(control, releases - len(RELEASES))
        stack.enter_context(
            BackgroundServer(control.repository.root, folder / "serve.log", environment=persons_environment())
        )
        promote(control, model=MODEL, release=RELEASES[0], alias="production")
        token = create(control, name="bench", scope=Scope.PROMOTE).secret
        times: dict[str, dict[str, list[float]]] = {side: {} for side in sides}
        for number in range(rounds + 1):  # the first round compiles and fills the page cache
            for side, program in sides.items():
                with control_api(program, control, folder / "api.log") as url:  # a repository has one at a time
                    for way, taken_ms in one_round(program, url, token, control.repository.root):
                        times[side].setdefault(way, []).extend([taken_ms] * (number > 0))
    return times


def one_round(program: tuple[str, ...], url: str, token: str, root: Path) -> Iterator[tuple[str, float]]:
    """Promote, look and roll back by command; promote and roll back by the API. What each took, in milliseconds."""
    environment = persons_environment()
    pool = urllib3.PoolManager(headers={"Authorization": f"Bearer {token}"}, retries=False)

    def command(*words: str) -> Callable[[], None]:
        line = [*program, *words, "-r", str(root)]

        def run() -> None:
            subprocess.run(line, check=True, capture_output=True, env=environment)

        return run

    def call(path: str, body: dict[str, str]) -> None:
        answer = pool.request("POST", f"{url}/v1/models/{MODEL}/{path}?wait=120", json=body)
        if answer.status != 200:
            raise RuntimeError(answer.data.decode())

    yield "promote", timed(command("promote", MODEL, RELEASES[1]))
    yield "status", timed(command("status", MODEL))
    yield "rollback", timed(command("rollback", MODEL))
    call("promotions", {"release": RELEASES[1]})
    yield "rollback by API", timed(lambda: call("rollbacks", {}))


def timed(work: Callable[[], None]) -> float:
    """How long `work` takes, in milliseconds."""
    begun = time.perf_counter()
    work()
    return (time.perf_counter() - begun) * 1e3


def exported(folder: Path, release: str, size_bytes: int) -> Path:
    """A real policy in the format that is served by default, its weights padded by bytes that no layer reads."""
    export_policy(ARCHIVES / f"ppo-{release}.zip", folder, formats=[Format.OPENVINO], trust_pickle=True)
    file = next(name for name in FILES[Format.OPENVINO] if name.endswith(".bin"))
    with (folder / file).open("ab") as weights:
        weights.write(np.random.default_rng(0).bytes(max(0, size_bytes - weights.tell())))
    parity = json.loads((folder / PARITY_FILE).read_text())
    parity["formats"][Format.OPENVINO]["files"][file] = digest_of((folder / file).read_bytes())
    (folder / PARITY_FILE).write_text(json.dumps(parity))
    return folder


def fill(control: Control, count: int, *, a_model: int = A_MODEL) -> None:
    """Add `count` releases of other models to the journal, `a_model` of each."""
    journal = control.repository.journal
    records = list(journal.records())
    contract = next(r.body["contract"] for r in records if r.kind is RecordKind.PUBLISHED)
    lines = []
    for number in range(max(0, count)):
        body = {
            "model": f"other-{number // a_model}",
            "release": f"1.{number % a_model}.0",
            "slot": number % a_model + 1,
            "manifest_digest": digest_of(str(number).encode()),
            "contract": contract,
        }
        last = records[-1]
        records.append(Record(last.seq + 1, last.digest, last.time, last.actor, RecordKind.PUBLISHED, body))
        lines.append(records[-1].to_line())
    with journal.path.open("ab") as file:
        file.write(b"".join(lines))
    journal.head_path.write_bytes(Head.of(records).to_bytes())


@contextmanager
def control_api(program: tuple[str, ...], control: Control, log: Path) -> Iterator[str]:
    """A control API of one checkout while the block runs; its address."""
    with log.open("w") as stream:
        process = subprocess.Popen([*program, "api", "--port", "0", "-r", str(control.repository.root)], stderr=stream)
        try:
            until = time.monotonic() + 60
            while (found := re.search(r"at (http://\S+), for", log.read_text())) is None:
                if time.monotonic() > until:
                    raise RuntimeError(log.read_text())
                time.sleep(0.05)
            yield found[1]
        finally:
            process.terminate()
            process.wait(20)


if __name__ == "__main__":
    main()
