"""A bake reads the slowest answers from Triton's page, minute by minute."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from policyctl.adapters import triton_metrics
from policyctl.domain.bake import TailQuantiles
from policyctl.services.bake.tails import Tails

CLIENT = SimpleNamespace(endpoint=SimpleNamespace(metrics="127.0.0.1:1"))


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A page that says what the test wants, and the time of the test."""
    found = SimpleNamespace(now=0.0, page="")
    monkeypatch.setattr(triton_metrics, "fetch", lambda _address: found.page)
    found.tails = Tails("walker", 2, lambda: found.now)

    def look(at_s: float, requests: int, p95: str = "NaN", p99: str = "NaN") -> None:
        labels = 'model="walker",version="2"'
        name = "nv_inference_request_summary_us"
        found.now = at_s
        found.page = (
            f"# TYPE {name} summary\n{name}_count{{{labels}}} {requests}\n{name}_sum{{{labels}}} 1\n"
            f'{name}{{{labels},quantile="0.95"}} {p95}\n{name}{{{labels},quantile="0.99"}} {p99}\n'
            f'{name}{{model="other",version="2",quantile="0.99"}} 9\n'
        )
        found.tails.look(CLIENT)

    found.look = look
    return found


def test_every_answer_belongs_to_one_span(watched: SimpleNamespace) -> None:
    """A span ends after the minute that Triton's quantiles reach back, and when the server was started again."""
    watched.look(0.0, 5)
    assert watched.tails.seen() == ()
    watched.look(30.0, 50, "700", "900")
    assert watched.tails.seen() == (TailQuantiles(30.0, 45, 700.0, 900.0),)
    watched.look(60.0, 100, "710", "950")
    watched.look(70.0, 120, "720", "960")
    assert watched.tails.seen() == (TailQuantiles(60.0, 95, 710.0, 950.0), TailQuantiles(10.0, 20, 720.0, 960.0))
    watched.look(80.0, 1, "100", "100")
    watched.look(90.0, 4, "110", "120")
    assert watched.tails.seen() == (
        TailQuantiles(60.0, 95, 710.0, 950.0),
        TailQuantiles(10.0, 20, 720.0, 960.0),
        TailQuantiles(10.0, 3, 110.0, 120.0),
    )


def test_a_triton_without_quantiles_has_no_tails(watched: SimpleNamespace) -> None:
    """None, which is not the same as a slot that nobody asked."""
    watched.page = "# TYPE nv_inference_count counter\nnv_inference_count 3\n"
    watched.tails.look(CLIENT)
    assert watched.tails.seen() is None
