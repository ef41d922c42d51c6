"""Hold an export against the framework that trained it, step by step over whole episodes.

    python ../compare.py build/pendulum

It runs in a folder whose `train.py` has `episodes()`: observations, each with
the action that the framework itself gives. Every format of the export answers
the same observations. The exit code is 1 where one differs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from policyctl.domain.artifacts import CONTRACT_FILE, FILES, Format
from policyctl.domain.contract import ActionKind, Contract
from policyctl_exporters.runtimes import open_runner

TOLERANCE = 1e-5
"""Of a continuous action, relative where it is larger than 1; a choice is the same or it is not."""


def main() -> int:
    """Print the greatest difference of each format."""
    sys.path.insert(0, str(Path.cwd()))
    from train import episodes

    exported = Path(sys.argv[1])
    contract = Contract.from_json(json.loads((exported / CONTRACT_FILE).read_bytes()))
    steps = list(episodes())
    name, shape = contract.observations[0].name, contract.action.shape
    observations = np.stack([seen for seen, _ in steps]).astype(contract.observations[0].dtype)
    wanted = np.stack([np.reshape(action, shape) for _, action in steps])
    failed = False
    for form in (form for form in Format if all((exported / file).is_file() for file in FILES[form])):
        given = open_runner(form, exported, contract)({name: observations})["action"]
        difference = np.abs(given.astype(np.float64) - wanted)
        if contract.action_kind is ActionKind.CONTINUOUS:
            wrong = difference > TOLERANCE * np.maximum(1.0, np.abs(wanted))
        else:
            wrong = difference > 0
        print(f"{form}: greatest difference {difference.max():.1e} over {len(steps)} steps")
        failed |= bool(wrong.any())
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
