"""Probe: one golden inference of each alias, for scripts that must know whether it answers correctly.

A container's health check, a load balancer's and a script's question are the
same: does this alias give the action that its release was published with?
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import Any

from policyctl.adapters.pbtxt import max_batch_size
from policyctl.adapters.triton import Triton
from policyctl.domain.artifacts import CONTRACT_FILE, GOLDEN_FILE
from policyctl.domain.contract import Contract
from policyctl.domain.golden import Golden
from policyctl.domain.manifest import FileEntry, difference, digest_of
from policyctl.domain.names import served_name
from policyctl.domain.state import AliasState, PublishedRelease, State
from policyctl.domain.verdict import Verdict
from policyctl.errors import IntegrityError, PolicyctlError
from policyctl.gates import golden as golden_gate
from policyctl.integrity import read_file, read_manifest
from policyctl.services.control import Control, asker


@dataclass(frozen=True, slots=True)
class Probed:
    """What one alias answered.

    Attributes:
        model: Which model.
        alias: Which alias.
        served: The Triton model that was asked.
        release: What should answer.
        verdict: Passed, failed (another slot, or another action), or error (no answer).
        detail: Why, or how much it differs.
        duration_ms: Of the question.
    """

    model: str
    alias: str
    served: str
    release: str
    verdict: Verdict
    detail: str
    duration_ms: float

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {**asdict(self), "verdict": self.verdict.value}


def probe(control: Control, *, model: str | None = None, alias: str | None = None) -> tuple[Probed, ...]:
    """Ask each alias for its first golden observation, in the golden set's tolerance.

    Args:
        control: The control plane.
        model: Only this model.
        alias: Only this alias, of that model or of each.

    Returns:
        One for each alias; none where nothing is named yet and nothing was asked for.

    Raises:
        UsageError: No such model, or no alias of that name.
        ServerError: No server answers.
        IntegrityError: The journal was tampered with.
    """
    state = control.repository.journal.state()
    if model is not None:
        state.require(model)
        if alias is not None:
            state.named(model, alias)
    asked = {
        key: named
        for key, named in sorted(state.aliases.items())
        if model in {None, key[0]} and alias in {None, key[1]}
    }
    with control.triton() as client:
        return tuple(_ask(control, client, state, key, named) for key, named in asked.items())


def _ask(control: Control, client: Triton, state: State, key: tuple[str, str], named: AliasState) -> Probed:
    model, alias = key
    served, placement = served_name(model, alias), named.placement
    began = time.monotonic()
    try:
        contract, golden = _known(control, state.release(model, placement.release))
        first = Golden(
            {name: array[:1] for name, array in golden.observations.items()},
            {name: array[:1] for name, array in golden.outputs.items()},
            golden.tolerance,
        )
        result = golden_gate.run(
            contract,
            first,
            asker(client, served),
            slot=placement.slot,
            max_batch_size=max(1, max_batch_size(placement.config)),
        )
        verdict, detail = result.verdict, result.reason
    except PolicyctlError as error:
        verdict, detail = Verdict.ERROR, error.problem
    taken_ms = round((time.monotonic() - began) * 1e3, 3)
    return Probed(model, alias, served, placement.release, verdict, detail, taken_ms)


def _known(control: Control, published: PublishedRelease) -> tuple[Contract, Golden]:
    """Contract and golden set of a release, each as published; its artifacts are not read, which may be large."""
    folder = control.repository.slot(published.model, published.slot)
    manifest, _ = read_manifest(folder, published.manifest_digest)
    listed = {entry.path: entry for entry in manifest.files}
    contents = {name: read_file(folder / name) for name in (CONTRACT_FILE, GOLDEN_FILE)}
    for name, content in contents.items():
        found = FileEntry(name, len(content), digest_of(content))
        if problem := difference(name, listed.get(name), found):
            raise IntegrityError(problem, remedy="See: policyctl verify")
    contract = Contract.from_json(json.loads(contents[CONTRACT_FILE]))
    return contract, Golden.from_bytes(contents[GOLDEN_FILE], contract)
