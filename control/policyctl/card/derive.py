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
from policyctl.domain.history import History
from policyctl.domain.json_values import to_json
from policyctl.domain.manifest import digest_of
from policyctl.domain.tensor import TensorSpec

GOLDEN: Final = "golden set"
"""What `behaviour.observations` says of the release's own golden observations."""


def described(description: Mapping[str, Any], observations: str) -> dict[str, Any]:
    """A description of actions as a card states it: without what is not known."""
    known = {key: value for key, value in description.items() if value is not None and (key, value) != ("pairs", 0)}
    return {"observations": observations, **known}


def sections(contract_json: bytes, golden_npz: bytes, parity_json: bytes) -> dict[str, Any]:
    """Everything that follows from the files of a release.

    Golden observations are drawn from the observation space, for certification;
    an environment shows others.

    Raises:
        UsageError: A file is not what its name says.
    """
    contract = Contract.from_json(json.loads(contract_json))
    golden = Golden.from_bytes(golden_npz, contract)
    acted = described(to_json(describe(contract, golden.outputs)), GOLDEN)
    derived: dict[str, Any] = {
        "contract": {
            "digest": digest_of(contract_json),
            "observations": [_tensor_words(spec) for spec in contract.observations],
            "outputs": [_tensor_words(spec) for spec in contract.outputs],
            "action_kind": contract.action_kind.value,
            "distribution": contract.distribution.kind.value,
            **({} if contract.max_batch is None else {"max_batch": contract.max_batch}),
            **({"memory": [f"{s.input} -> {s.output}" for s in contract.states]} if contract.states else {}),
            **({"histories": [_history_words(each) for each in contract.histories]} if contract.histories else {}),
            **({} if contract.drive is None else {"drive": contract.drive.words}),
            **({} if contract.chunk is None else {"chunk": contract.chunk.words}),
        },
        "behaviour": [{**acted, "evidence": {"file": GOLDEN_FILE, "digest": digest_of(golden_npz)}}],
    }
    if parity := _parity(parity_json):
        tolerance = {name: getattr(golden.tolerance, name) for name in ("atol", "rtol", "tie")}
        derived["parity"] = {**parity, "tolerance": tolerance, "golden_rows": golden.rows}
    return derived


def _parity(content: bytes) -> dict[str, Any]:
    """What the report says; empty where it does not tell."""
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
        return {"formats": formats, "seed": report["seed"]}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _history_words(history: History) -> str:
    """``obs: 5 steps, the newest last``."""
    terms = " of each term" if history.terms else ""
    return f"{history.observation}: {history.length} steps{terms}, the newest {history.newest}"


def _tensor_words(spec: TensorSpec) -> str:
    """``observation: float32[24] in rad, rad/s``."""
    each = dict.fromkeys(unit or "?" for unit in spec.each_unit) if spec.units else ()
    units = f" in {', '.join(each)}" if each else ""
    role = "" if spec.role is None else f" ({spec.role.words})"
    return f"{spec.name}: {spec.dtype}[{', '.join(map(str, spec.shape))}]{units}{role}"
