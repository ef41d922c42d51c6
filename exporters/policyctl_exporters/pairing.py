"""Which observation goes to which input of a policy: by name, never by position.

Gymnasium sorts the keys of a Dict space, so positions say nothing: two inputs
of one shape would change places and nothing would notice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from policyctl.errors import UsageError
from policyctl_exporters.spaces import Observation


def pair(observations: Sequence[Observation], inputs: Sequence[str], *, what: str) -> tuple[Observation, ...]:
    """The observation of each input.

    An input is named as the space's key or as the contract's tensor. One input
    and one observation belong together whatever their names are.

    Args:
        observations: What the space holds, in any order.
        inputs: Names of the policy's inputs, in its order.
        what: Whose inputs these are, for messages.

    Returns:
        One observation an input, in the order of `inputs`.

    Raises:
        UsageError: An input or an observation has no partner.
    """
    if len(observations) == len(inputs) == 1:
        return tuple(observations)
    by_name = {name: obs for obs in observations for name in (_plain(obs.key), obs.spec.name)}
    pairs = [by_name.get(_plain(name)) for name in inputs]
    chosen = tuple(obs for obs in pairs if obs is not None)
    if len(chosen) == len(inputs) == len(observations) == len({obs.key for obs in chosen}):
        return chosen
    raise UsageError(
        f"{what} takes {', '.join(inputs) or 'nothing'}; the observation space has the keys"
        f" {', '.join(obs.key or 'observation' for obs in observations)}",
        remedy="Give the keys of the observation space the names of the inputs: they are matched by name.",
    )


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", name)
