"""The embedded Triton loses nothing while it loads what it serves; one that does is found out."""

from __future__ import annotations

import pytest
from embedded import Embedded

from policyctl.adapters.triton import Triton
from policyctl.services.moves import swaps

pytestmark = pytest.mark.server


def test_the_embedded_triton_loses_no_request_while_it_loads_what_it_serves(served: Embedded) -> None:
    """Several loads under callers without pause."""
    (check,) = [check for check in served.json("doctor", "--deep")["checks"] if check["name"] == "swaps"]
    assert check["status"] == "ok", check
    measured = served.control.repository.read_value(swaps.FILE, swaps.Swaps)
    assert (measured.failed, measured.wrong) == (0, 0)
    assert measured.requests > measured.loads
    assert not list(served.root.glob("*.candidate"))


def test_a_server_that_unloads_first_is_found_out(served: Embedded, monkeypatch) -> None:
    """As later versions may, which promise nothing."""
    load = Triton.load

    def unload_first(self: Triton, name: str, slot: int, **kwargs) -> None:
        self.unload(name)
        load(self, name, slot, **kwargs)

    monkeypatch.setattr(Triton, "load", unload_first)
    checked = swaps.check(served.control)
    assert checked.status == "failed"
    assert "failed" in checked.detail
    assert served.control.repository.read_value(swaps.FILE, swaps.Swaps).failed > 0
