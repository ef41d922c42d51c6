"""Lines: one each, readable again, without secrets, and found by what they are about."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl import correlation
from policyctl.domain.log_event import MOST_CHARACTERS, LogFilter, LogLevel, event, from_line, to_line
from policyctl.domain.protocol import control_request_id, is_control_request, move_of
from policyctl.errors import UsageError
from policyctl.services.log import Log, as_in_a_line, secrets_of
from policyctl.services.logs.reading import since
from policyctl.services.logs.triton import models_of, triton_event
from policyctl.serving.logs import parse
from policyctl.settings import load

NOW = datetime(2026, 11, 23, 8, 18, 20, tzinfo=UTC)
MODELS = ("walker-2", "walker")


@given(st.text(), st.dictionaries(st.text(min_size=1), st.text(min_size=1) | st.integers()), st.datetimes())
def test_whatever_is_said_is_one_line_that_is_read_back(words, fields, time) -> None:
    """Line feeds and quotes of a client's text forge no second line."""
    fields = {k: v for k, v in fields.items() if k not in {"time", "level", "event", "logger"}}
    written = event(time.replace(tzinfo=UTC), LogLevel.WARNING, words, "x", fields)
    line = to_line(written)
    assert "\n" not in line
    assert from_line(line) == written
    assert {k: written[k] for k in fields} == fields


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"time":"x","level":"info","event":""}', "null", "[" * 9999])
def test_what_is_no_line_is_left_out(text: str) -> None:
    """As the half of a line that a full disk let through."""
    assert from_line(text) is None


def test_a_text_without_end_is_cut() -> None:
    """And says how much was."""
    written = event(NOW, LogLevel.INFO, "x" * (MOST_CHARACTERS + 7), "x", {"a": "y" * (MOST_CHARACTERS + 1)})
    assert written["event"].endswith("x... (7 more)")
    assert written["a"].endswith("(1 more)")


@given(st.text(), st.text(), st.text())
def test_a_secret_never_stands_in_a_line(end, before, after) -> None:
    """Wherever it was put, also where JSON writes its characters otherwise."""
    lines, secret = [], f"canary{end}"
    log = Log(LogLevel.DEBUG, (lines.append,), (as_in_a_line(secret),))
    log.write(LogLevel.INFO, before + secret + after, field=[secret, {secret: secret}])
    (line,) = lines
    assert as_in_a_line(secret) not in line
    assert secret not in str(json.loads(line))


def test_every_secret_of_the_settings_is_hidden(monkeypatch) -> None:
    """Those of later settings too: they are found by their type."""
    for name in ("SERVER__API_KEY", "REGISTRY__PASSWORD", "INTEGRITY__PASSPHRASE"):
        monkeypatch.setenv(f"POLICYCTL_{name}", f'canary "{name}"')
    assert {json.loads(f'"{s}"') for s in secrets_of(load())} == {
        'canary "SERVER__API_KEY"',
        'canary "REGISTRY__PASSWORD"',
        'canary "INTEGRITY__PASSPHRASE"',
    }


def test_a_line_carries_what_is_bound_and_nothing_of_what_was() -> None:
    """Inner over outer, and a level below the log's own is not written."""
    lines = []
    log = Log(LogLevel.INFO, (lines.append,))
    with correlation.bound(operation="promote-1", model="walker", alias="production"):
        with correlation.bound(move="m1", alias="staging"):
            log.write(LogLevel.INFO, "inner")
            log.write(LogLevel.DEBUG, "too fine")
        log.write(LogLevel.ERROR, "outer")
    log.write(LogLevel.INFO, "outside")
    inner, outer, outside = (json.loads(line) for line in lines)
    assert (inner["operation"], inner["move"], inner["served"]) == ("promote-1", "m1", "walker.staging")
    assert ("move" in outer, outer["served"], outer["level"]) == (False, "walker", "error")
    assert outside.keys() == {"time", "level", "event", "logger"}


_LINE = {
    "time": "2026-11-23T10:00:00.000000Z",
    "level": "warning",
    "event": "x",
    "move": "1f0c9a",
    "request_id": "r1",
    "model": "walker",
    "served": "walker.staging",
    "operation": "promote-12",
}


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, True),
        ({"request_id": "r1"}, True),
        ({"request_id": "r"}, False),
        ({"move": "1f0c"}, True),
        ({"move": "2"}, False),
        ({"operation": "promote"}, True),
        ({"model": "walker"}, True),
        ({"model": "walker.staging"}, True),
        ({"model": "runner"}, False),
        ({"level": LogLevel.WARNING}, True),
        ({"level": LogLevel.ERROR}, False),
        ({"since": datetime(2026, 11, 23, 10, tzinfo=UTC)}, True),
        ({"since": datetime(2026, 11, 23, 10, 1, tzinfo=UTC)}, False),
    ],
)
def test_a_line_is_found_by_what_it_is_about(asked: dict, found: bool) -> None:
    """Each condition alone; a move by the beginning of its id, a request by all of it."""
    assert LogFilter(**asked).wants(_LINE) is found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "I1123 08:18:14.481762 2370 model_lifecycle.cc:472] loading: walker.staging:3",
            {"level": "info", "served": "walker.staging", "model": "walker", "alias": "staging"},
        ),
        (
            "I1123 08:18:14.481762 2370 python_be.cc:2] TRITONBACKEND_ModelInstanceInitialize: walker_0_0 (CPU)",
            {"served": "walker", "alias": "production", "source": "python_be.cc:2"},
        ),
        ("I1123 08:18:14.481762 2370 a.cc:1] 'walker.1.2.0-rc.1'.", {"served": "walker.1.2.0-rc.1"}),
        ("I1123 08:18:14.481762 2370 a.cc:1] unloading walker-2.", {"model": "walker-2", "alias": "production"}),
        ("I1123 08:18:14.481762 2370 a.cc:1] instance walker.staging_0_1 and", {"served": "walker.staging"}),
        ("I1123 08:18:14.481762 2370 a.cc:1] walker.Big walker_x walkers runner.staging", {"served": None}),
        ("I1123 08:18:14.481762 2370 a.cc:1] /srv/walker/1 and sleepwalker", {"served": None}),
        (
            "V1123 08:18:14.481762 2370 infer.cc:1] [request id: r7] prepared: model: walker.1.2.0",
            {"level": "debug", "request_id": "r7", "served": "walker.1.2.0", "alias": "1.2.0"},
        ),
        ("V1123 08:18:14.481762 2370 infer.cc:1] [request id: <id_unknown>] walker", {"request_id": None}),
        (
            'W1123 08:18:14.481762 2370 runtime.py:199] policyctl refused {"model": "walker.staging", "version": "2",'
            ' "release": "1.1.0", "request_id": "r]8", "error": "the request has no rows"}',
            {
                "level": "warning",
                "logger": "triton.backend",
                "event": "refused a request: the request has no rows",
                "request_id": "r]8",
                "served": "walker.staging",
                "slot": "2",
                "release": "1.1.0",
                "error": None,
                "move": None,
            },
        ),
        (
            'E1123 08:18:14.481762 2370 openvino:0] policyctl refused {"model": "walker.candidate", "version": "2",'
            ' "request_id": "policyctl-control/1f0c", "error": "nan"}',
            {"level": "error", "move": "1f0c", "served": "walker.candidate"},
        ),
        ("E1123 08:18:14.481762 2370 a.cc:1] policyctl refused {broken", {"level": "error", "logger": "triton"}),
        ('W1123 08:18:14.481762 2370 a.py:1] policyctl refused {"a" 1}', {"event": 'refused {"a" 1}'}),
        ("terminate called after throwing", {"level": "error", "logger": "triton", "source": None}),
    ],
)
def test_a_line_of_triton_says_which_model_request_and_move_it_is_about(text: str, expected: dict) -> None:
    """What is unknown is left out, not guessed."""
    found = triton_event(parse(text), MODELS, NOW, operation="serve-1")
    assert {key: found.get(key) for key in expected} == expected
    assert found["operation"] == "serve-1"
    assert from_line(to_line(found)) == found


@pytest.mark.parametrize(
    ("stamp", "now", "time"),
    [
        ("1123 08:18:14.481762", NOW, "2026-11-23T08:18:14.481762Z"),
        ("1123 10:18:14.481762", NOW, "2026-11-23T08:18:20.000000Z"),
        ("1231 23:59:59.900000", datetime(2027, 1, 1, tzinfo=UTC), "2027-01-01T00:00:00.000000Z"),
        ("0229 00:00:00.000000", NOW, "2026-11-23T08:18:20.000000Z"),
    ],
)
def test_a_line_of_triton_has_its_own_time_where_that_can_be(stamp: str, now: datetime, time: str) -> None:
    """Not where it is of another zone, or the year turned meanwhile."""
    assert triton_event(parse(f"I{stamp} 2370 a.cc:1] x"), MODELS, now)["time"] == time


def test_every_model_that_a_line_may_be_about_is_known(watched) -> None:
    """Each once, the longest name first; before the first is published no line is about any."""
    watched.world.publish("1.0.0", 3, model="walker-2")
    assert models_of(watched.known.state()) == ("walker-2", "walker")
    assert triton_event(parse("walker"), (), NOW).keys() == {"time", "level", "event", "logger"}


def test_a_request_of_the_control_plane_names_its_move() -> None:
    """And is distinguished from a client's, whatever that is called."""
    assert control_request_id("") == "policyctl-control"
    assert move_of(control_request_id("1f0c")) == "1f0c"
    assert is_control_request(control_request_id("1f0c"))
    assert not is_control_request("policyctl-controller/1")
    assert move_of("mine/1f0c") == ""


def test_since_is_an_instant_or_how_long_ago() -> None:
    """A time without a zone is refused, as everywhere."""
    assert since("10m", now=NOW) == NOW - timedelta(minutes=10)
    assert since("2d", now=NOW) == NOW - timedelta(days=2)
    assert since("2026-11-23T09:00+01:00", now=NOW) == datetime(2026, 11, 23, 8, tzinfo=UTC)
    for text in ("yesterday", "2026-11-23T09:00", "10", "-5m"):
        with pytest.raises(UsageError, match="--since"):
            since(text, now=NOW)
