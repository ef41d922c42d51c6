"""An alias that names a release already: does the server answer by it?"""

from __future__ import annotations

from policyctl.adapters.pbtxt import identity
from policyctl.adapters.triton import Triton
from policyctl.domain.log_event import LogLevel
from policyctl.domain.moves import Move
from policyctl.domain.verdict import Verdict
from policyctl.services.control import Control, OpenRelease
from policyctl.services.moves.aliases import load_alias
from policyctl.services.moves.certify import certify


def names_already(move: Move) -> bool:
    """Whether the alias names the target already, byte for byte."""
    return move.incumbent is not None and identity(move.incumbent.config) == identity(move.target.config)


def serve_again(control: Control, client: Triton, move: Move, opened: OpenRelease) -> bool:
    """Load what an alias names already, where the server does not answer by it; says whether it had to."""
    certified = certify(control, client, opened, move.served, move.target)
    if certified.verdict is Verdict.PASSED:
        return False
    words = f"{move.alias} names {move.target.release}, but does not answer by it: {certified.reason}."
    control.tell(words, level=LogLevel.WARNING)
    current = control.repository.journal.state().aliases[move.model, move.alias]
    load_alias(control, client, (move.model, move.alias), current, afresh=True)
    return True
