"""Where a command is set more loosely than the running server, the server's rule counts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "moves"))

from world import World

from policyctl.adapters import endpoint as endpoints
from policyctl.config.keys import keys, masked
from policyctl.domain.bake import Then
from policyctl.errors import UsageError
from policyctl.services import running
from policyctl.services.control import Control
from policyctl.services.rollout import promote as promotion
from policyctl.services.rollout.here import carry_out, settings_of
from policyctl.services.rollout.request import AliasRequest, BakeRequest, PromotionRequest
from policyctl.services.strictness import STRICTER, in_force
from policyctl.settings import Settings, load

PROMOTION = AliasRequest("walker", PromotionRequest(release="1.1.0"))


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    """Two releases of walker, the first of them in production."""
    found = World(tmp_path, monkeypatch)
    found.publish("1.0.0", 1)
    found.publish("1.1.0", 2)
    promotion.promote(found.control, model="walker", release="1.0.0", alias="production")
    return found


def _serve(world: World, *, profile: str = "", **settings: dict) -> None:
    """What a running server with these settings has recorded of them."""
    recorded = {".".join(path): value for path, value in masked(load(repository=world.root, **settings)).items()}
    chosen = {f"{group}.{name}" for group, values in settings.items() for name in _names(values)}
    found = running.Running(endpoints.THIS_PROCESS, profile, (), recorded, dict.fromkeys(chosen, "its.yaml:1"))
    running.write(world.control.repository, found)


def _names(values: dict) -> list[str]:
    return [
        f"{name}.{inner}" if isinstance(value, dict) else name
        for name, value in values.items()
        for inner in (value if isinstance(value, dict) else (name,))
    ]


def _control(world: World, **settings: dict) -> Control:
    return Control.of(load(repository=world.root, **settings), world.said.append)


LOOSER = [
    ({"gates": {"promote_with": ["service_level"]}}, {"gates": {"promote_with": []}}, "gates.promote_with"),
    ({"gates": {"service_level": {"p99_ms": 5.0}}}, {"gates": {"service_level": {"p99_ms": 500.0}}}, "p99_ms is 5.0"),
    (
        {"gates": {"service_level": {"throughput_per_s": 500.0}}},
        {"gates": {"service_level": {"throughput_per_s": 1.0}}},
        "throughput_per_s is 500",
    ),
    ({"gates": {"non_inferiority": {"p50": 0.01}}}, {"gates": {"non_inferiority": {"p50": 0.9}}}, "p50 is 0.01"),
    ({"bake": {"for_s": 300.0}}, {"bake": {"for_s": 0.0}}, "bake.for_s is 300.0"),
    ({"bake": {"for_s": 300.0, "on_inconclusive": "rollback"}}, {"bake": {"on_inconclusive": "keep"}}, "rollback"),
    ({"bake": {"error_ratio": 0.001}}, {"bake": {"error_ratio": 0.5}}, "error_ratio is 0.001"),
    ({"serving": {"memory_reserve_mib": 512}}, {"serving": {"memory_reserve_mib": None}}, "reserve_mib is 512"),
]


@pytest.mark.parametrize(("theirs", "mine", "said"), LOOSER)
def test_what_the_server_was_set_to_counts_where_it_is_stricter(world, theirs, mine, said) -> None:
    """And is said; what is stricter here stays, and a server that is gone binds nobody."""
    _serve(world, **theirs)
    settings, words = in_force(_control(world, **mine))
    assert said in words, words
    assert in_force(_control(world, **theirs))[1] == ""
    _serve(world, **mine)
    stricter, words = in_force(_control(world, **theirs))
    assert words == ""
    for name in STRICTER:
        path = name.split(".")
        here, there = settings, stricter
        for part in path:
            here, there = getattr(here, part), getattr(there, part)
        assert here == there, name
    running.clear(world.control.repository)
    assert in_force(_control(world, **mine)) == (_control(world, **mine).settings, "")


def test_a_default_of_the_server_binds_nobody(world) -> None:
    """What its owner did not choose does not bind: a command may be set more loosely."""
    _serve(world)
    looser = {"gates": {"service_level": {"p99_ms": 900.0}}, "bake": {"on_inconclusive": "keep"}}
    settings, words = in_force(_control(world, **looser))
    assert (settings.gates.service_level.p99_ms, settings.bake.on_inconclusive, words) == (900.0, Then.KEEP, "")


def test_every_limit_of_a_promotion_says_which_way_is_stricter() -> None:
    """A limit that is added and not listed would be a way around."""
    decides = {
        key.name
        for key in keys(Settings).values()
        if key.name.startswith(("gates.service_level.", "gates.non_inferiority.", "bake."))
        or key.name == "gates.promote_with"
    }
    how = {
        *(f"gates.service_level.{name}" for name in ("batch_size", "request_rate", "clients", "time_cap_s")),
        *(f"gates.non_inferiority.{name}" for name in ("time_cap_s", "alpha_failed", "clients", "interval_ms", "seed")),
        *(f"bake.{name}" for name in ("before_s", "prometheus", "prometheus_token")),
    }
    assert decides - how == STRICTER.keys() - {"serving.memory_reserve_mib"}


def test_a_promotion_asks_the_gates_of_the_server_and_a_person_may_ask_otherwise(world, monkeypatch) -> None:
    """By a setting nobody gets past them; the option of the command is a decision, as --gates none is."""
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(promotion, "validate", lambda *_, **__: ())
    monkeypatch.setattr(
        "policyctl.services.measure.performance.checks", lambda _c, chosen, **_: asked.append(tuple(chosen)) or []
    )
    _serve(world, gates={"promote_with": ["service_level"]})
    carry_out(_control(world), PROMOTION)
    carry_out(_control(world), AliasRequest("walker", PromotionRequest(release="1.0.0", gates=())))
    assert asked == [("service_level",)]
    assert any("gates.promote_with is service_level (none here)" in line for line in world.said)


def test_an_option_goes_before_the_servers_bake_but_not_before_its_profile(world) -> None:
    """--bake 5 is a decision; `keep` is what the profile production forbids."""
    _serve(world, bake={"for_s": 300.0})
    shorter = AliasRequest(
        "walker", PromotionRequest(release="1.1.0", bake=BakeRequest(for_s=5.0, on_inconclusive=Then.KEEP))
    )
    settings, _ = settings_of(_control(world), shorter)
    assert (settings.bake.for_s, settings.bake.on_inconclusive) == (5.0, Then.KEEP)
    _serve(world, profile="production", bake={"for_s": 300.0})
    with pytest.raises(UsageError, match=r"bake\.on_inconclusive.*profile production of the running server"):
        settings_of(_control(world), shorter)


def test_the_control_api_is_bound_as_a_command_is(world) -> None:
    """Fewer gates than the running server asks for need scope admin."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "api"))
    from api_world import ApiWorld

    api = ApiWorld(world)
    _serve(world, gates={"promote_with": ["service_level"]})
    assert api.post("/promotions", {"release": "1.1.0", "gates": []}).status_code == 403
    assert api.post("/promotions?wait=10", {"release": "1.1.0", "gates": []}, scope="admin").status_code == 200
    api.api.operations.close(timeout_s=300)
