"""What a card says that follows from files of the release: contract, parity, behaviour on the golden set.

Nobody types it: `policyctl export` and `policyctl card init` write it, and
`check` holds a card that states it against the files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from policyctl.domain.actions import describe
from policyctl.domain.artifacts import GOLDEN_FILE
from policyctl.domain.contract import Contract
from policyctl.domain.golden import Golden
from policyctl.domain.json_values import to_json
from policyctl.domain.manifest import digest_of
from policyctl.domain.tensor import TensorSpec

GOLDEN: Final = "golden set"
"""What `behaviour.observations` says of the release's own golden observations."""


def contract_section(contract: Contract, *, digest: str) -> dict[str, Any]:
    """The section ``contract``."""
    return {
        "digest": digest,
        "observations": [tensor_words(spec) for spec in contract.observations],
        "outputs": [tensor_words(spec) for spec in contract.outputs],
        "action_kind": contract.action_kind.value,
        "distribution": contract.distribution.kind.value,
        **({} if contract.max_batch is None else {"max_batch": contract.max_batch}),
    }


def golden_behaviour(contract: Contract, golden: Golden, *, digest: str) -> dict[str, Any]:
    """What the policy's own answers to the golden set look like: an entry of ``behaviour``.

    Golden observations are drawn from the observation space, for certification;
    an environment shows others.
    """
    return {
        **described(to_json(describe(contract, golden.outputs)), GOLDEN),
        "evidence": {"file": GOLDEN_FILE, "digest": digest},
    }


def described(description: Mapping[str, Any], observations: str) -> dict[str, Any]:
    """A description of actions as a card states it: without what is not known."""
    known = {key: value for key, value in description.items() if value is not None and (key, value) != ("pairs", 0)}
    return {"observations": observations, **known}


def parity_section(content: bytes, *, golden: Golden | None = None) -> dict[str, Any]:
    """The section ``parity``; empty where the report does not tell."""
    section: dict[str, Any] = {}
    try:
        report = json.loads(content)
        formats = {
            name: {
                "rows": result["rows"],
                "near_ties": result["near_ties"],
                "max_abs": {output: float(f"{value:.3g}") for output, value in result["max_abs"].items()},
            }
            for name, result in report["formats"].items()
        }
        section = {"formats": formats, "seed": report["seed"]}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    if golden is not None:
        allowed = golden.tolerance
        section["tolerance"] = {"atol": allowed.atol, "rtol": allowed.rtol, "tie": allowed.tie}
        section["golden_rows"] = golden.rows
    return section


def sections(contract_json: bytes, golden_npz: bytes, parity_json: bytes) -> dict[str, Any]:
    """Everything that follows from the files of a release.

    Raises:
        UsageError: A file is not what its name says.
    """
    contract = Contract.from_json(json.loads(contract_json))
    golden = Golden.from_bytes(golden_npz, contract)
    derived: dict[str, Any] = {
        "contract": contract_section(contract, digest=digest_of(contract_json)),
        "behaviour": [golden_behaviour(contract, golden, digest=digest_of(golden_npz))],
    }
    if parity := parity_section(parity_json, golden=golden):
        derived["parity"] = parity
    return derived


def tensor_words(spec: TensorSpec) -> str:
    """``observation: float32[24]``."""
    return f"{spec.name}: {spec.dtype}[{', '.join(map(str, spec.shape))}]"
