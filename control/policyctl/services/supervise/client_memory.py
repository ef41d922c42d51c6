"""Clear away the shared memory of clients that ended without closing.

A client that is killed leaves its file in ``/dev/shm`` and, because the server
has mapped it, the memory too. So both are undone: the server forgets the
region, and the file goes. The supervisor does it now and then.
"""

from __future__ import annotations

import contextlib
from typing import Final

from policyctl import claims
from policyctl.adapters.triton import Triton
from policyctl.client import regions
from policyctl.errors import ServerError

EVERY_S: Final = 10.0


def sweep(client: Triton) -> tuple[str, ...]:
    """Forget and remove what dead clients left; what belongs to a living one is not touched.

    Returns:
        The names of the regions.
    """
    swept: set[str] = set()
    with contextlib.suppress(ServerError), regions.abandoned() as names:
        swept.update(names)
        for name in client.regions():
            # A file that is gone was removed by its client, which then could not reach the server.
            if name in swept or (name.startswith(regions.PREFIX) and not (claims.FOLDER / name).exists()):
                with contextlib.suppress(ServerError):  # a request still has it: the next sweep forgets it
                    client.forget_region(name)
                    swept.add(name)
    return tuple(sorted(swept))
