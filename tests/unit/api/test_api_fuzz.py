"""The control API against its own description: thousands of ways to ask, and never an answer that it does not tell of.

The repository is a real one, and no server runs, so 503 (a problem, or the
health of what is down) is an answer that the description knows; every other 5xx
is a defect.
"""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import schemathesis
from api_world import ApiWorld
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from world import World

from policyctl.adapters import endpoint
from policyctl.api.app import create
from policyctl.api.meters import Buckets
from policyctl.domain.tokens import Scope
from policyctl.services.rollout.promote import promote

EXAMPLES = 5
HERE = Path.cwd()
OPERATIONS = sorted(
    f"{method.upper()} {path}" for path, item in create(None).openapi()["paths"].items() for method in item
)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory) -> ApiWorld:
    """A repository with two releases, an alias and no server; nobody may do anything without a token."""
    with pytest.MonkeyPatch.context() as patch:
        world = World(tmp_path_factory.mktemp("fuzzed"), patch)
        world.publish("1.0.0", 1)
        world.publish("1.1.0", 2)
        promote(world.control, model="walker", release="1.0.0", alias="production")
        promote(world.control, model="walker", release="1.1.0", alias="production")
    endpoint.clear(world.control.repository)
    api = ApiWorld(world, anonymous="none", reads_per_s=1e6, changes_per_minute=1e8, max_operations=64)
    api.api.failures = Buckets(lambda: (1e6, 1e6))  # each wrong token is to be refused as such
    api.post("/promotions?wait=60", {"release": "1.0.0"}, key="k")
    return api


@pytest.fixture(autouse=True)
def _where_hypothesis_keeps_its_tables(elsewhere, monkeypatch) -> None:
    monkeypatch.chdir(HERE)


def _told(_context, response, case) -> None:
    """Nothing but what is promised of every answer."""
    text = response.content.decode()
    assert "Traceback" not in text
    assert 'File "' not in text
    if response.status_code >= 400 and case.operation.path != "/healthz":
        problem = json.loads(text)
        assert problem["status"] == response.status_code
        assert {"type", "title", "detail", "code", "exit_code", "problem", "remedy", "request_id"} <= problem.keys()


@pytest.mark.parametrize("label", OPERATIONS)
def test_every_answer_is_one_that_the_description_tells_of(fuzzed, label: str) -> None:
    """Right and wrong requests, to models that are there and that are not: statuses, types, headers and schemas."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", fuzzed.app)
    operation = next(r.ok() for r in schema.get_all_operations() if r.ok().label == label)
    there = {"model": "walker", "release": "1.0.0"}
    named = {p.name: there[p.name] for p in operation.path_parameters if p.name in there}
    right = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    wrong = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
    known = operation.as_strategy(path_parameters=named) if len(named) == len(operation.path_parameters) else right

    # A promotion may be well put and yet impossible: no such release, nothing to go back to, nothing to abort.
    excluded = [not_a_server_error, *([positive_data_acceptance] if label.startswith("POST") else [])]

    @settings(
        max_examples=3 * EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=right | known | wrong)
    def ask(case) -> None:
        fuzzed.said.clear()
        response = case.call(headers=fuzzed.headers(Scope.ADMIN))
        assert response.status_code < 500 or response.status_code == 503, fuzzed.said
        sent = parse_qs(urlsplit(response.request.url).query, keep_blank_values=True)
        # An unknown parameter whose value is an empty list is not sent at all, and then nothing was wrong.
        lost = [negative_data_rejection] if set(case.query or {}) - set(sent) else []
        case.validate_response(response, additional_checks=[_told], excluded_checks=excluded + lost)

    ask()
