"""Settings: the command line over the environment over the defaults, and refusals by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyctl.errors import UsageError
from policyctl.services.settings.explained import explain
from policyctl.settings import Settings, load, source


def test_the_defaults_are_local_and_safe() -> None:
    """Without any setting the server is this machine's own."""
    found = load()
    assert found.repository == Path("model_repository")
    assert (found.server.host, found.server.http_port, found.server.url) == ("127.0.0.1", 8000, "")
    assert (found.lock_wait_s, found.serving.max_batch_size) == (2.0, 64)


def test_the_environment_overrides_a_default(monkeypatch) -> None:
    """Two underscores go one level down; each variable changes its own value alone."""
    monkeypatch.setenv("POLICYCTL_REPOSITORY", "/r")
    monkeypatch.setenv("POLICYCTL_SERVER__HTTP_PORT", "9000")
    monkeypatch.setenv("POLICYCTL_SERVING__PARAMETERS", '{"threads": "2"}')
    monkeypatch.setenv("POLICYCTL_SERVING__GPU", "true")
    found = load()
    assert found.repository == Path("/r")
    assert (found.server.http_port, found.server.grpc_port) == (9000, 8001)
    assert (found.serving.parameters, found.serving.gpu) == ({"threads": "2"}, True)


def test_the_command_line_overrides_the_environment(monkeypatch) -> None:
    """What is typed wins, value by value: what is not typed stays as the environment says."""
    monkeypatch.setenv("POLICYCTL_REPOSITORY", "/r")
    monkeypatch.setenv("POLICYCTL_SERVER__HTTP_PORT", "9000")
    monkeypatch.setenv("POLICYCTL_SERVER__URL", "env:1")
    found = load(repository=Path("/typed"), server={"url": "typed:1", "http_port": None}, lock_wait_s=None)
    assert found.repository == Path("/typed")
    assert (found.server.url, found.server.http_port) == ("typed:1", 9000)
    assert load(repository=None, server={"url": None}).server.url == "env:1"


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("POLICYCTL_SERVER__HTTP_PORT", "web", "server.http_port"),
        ("POLICYCTL_SERVER__HTTP_PORT", "70000", "server.http_port"),
        ("POLICYCTL_SERVER__HTTP_PORT", "-1", "server.http_port"),
        ("POLICYCTL_SERVER__TIMEOUT_S", "0", "server.timeout_s"),
        ("POLICYCTL_SERVER__TIMEOUT_S", "nan", "server.timeout_s"),
        ("POLICYCTL_SERVER__TIMEOUT_S", "inf", "server.timeout_s"),
        ("POLICYCTL_LOCK_WAIT_S", "-1", "lock_wait_s"),
        ("POLICYCTL_LOCK_WAIT_S", "soon", "lock_wait_s"),
        ("POLICYCTL_LOCK_WAIT_S", "nan", "lock_wait_s"),
        ("POLICYCTL_SERVING__MAX_BATCH_SIZE", "0", "serving.max_batch_size"),
        ("POLICYCTL_SERVING__MAX_BATCH_SIZE", "99999999999", "serving.max_batch_size"),
        ("POLICYCTL_SERVING__INSTANCES", "99999999999", "serving.instances"),
        ("POLICYCTL_SERVING__MAX_QUEUE_DELAY_US", "99999999999999999999", "serving.max_queue_delay_us"),
        ("POLICYCTL_SERVING__GPU", "maybe", "serving.gpu"),
        ("POLICYCTL_SERVER__HTTPPORT", "1", "server.httpport"),
        ("POLICYCTL_SERVER", "localhost", "server"),
        ("POLICYCTL_SERVER", "[1]", "server"),
        ("POLICYCTL_SERVING__PARAMETERS", "threads=2", "serving"),
        ("POLICYCTL_SERVING__PARAMETERS", '{"threads": 2}', "serving.parameters"),
        ("POLICYCTL_REPOSITORY__X", "1", "POLICYCTL_REPOSITORY__X"),
        ("POLICYCTL_REPOSITORY_", "1", "POLICYCTL_REPOSITORY_"),
        ("policyctl_lockwait", "1", "policyctl_lockwait"),
        ("POLICYCTL_REPOSITRY", "/r", "POLICYCTL_REPOSITRY"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_by_name(monkeypatch, name: str, value: str, named: str) -> None:
    """Every wrong or misspelt variable is a usage error that says which, never a traceback or silence."""
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=named) as refusal:
        load()
    assert "POLICYCTL_" in refusal.value.remedy


def test_what_kubernetes_sets_is_left_alone(monkeypatch) -> None:
    """A service called policyctl puts variables with our prefix into every pod."""
    for name in ("POLICYCTL_SERVICE_HOST", "POLICYCTL_PORT", "POLICYCTL_PORT_8000_TCP", "POLICYCTL_SERVICE_PORT_HTTP"):
        monkeypatch.setenv(name, "tcp://10.0.0.1:8000")
    assert load() == Settings()


def test_all_wrong_values_are_named_at_once(monkeypatch) -> None:
    """Nobody has to correct them one run at a time."""
    monkeypatch.setenv("POLICYCTL_LOCK_WAIT_S", "soon")
    monkeypatch.setenv("POLICYCTL_SERVER__HTTP_PORT", "web")
    with pytest.raises(UsageError, match=r"(?s)lock_wait_s.*server\.http_port|server\.http_port.*lock_wait_s"):
        load()


def test_a_key_is_never_shown(monkeypatch) -> None:
    """Neither settings in a log nor a refusal tell the key."""
    monkeypatch.setenv("POLICYCTL_SERVER__API_KEY", "s3cret")
    found = load()
    assert found.server.api_key.get_secret_value() == "s3cret"
    assert "s3cret" not in f"{found!r} {found} {found.model_dump_json()}"
    monkeypatch.setenv("POLICYCTL_SERVER__HTTP_PORT", "web")
    with pytest.raises(UsageError) as refusal:
        load()
    assert "s3cret" not in str(refusal.value)


def test_settings_do_not_change() -> None:
    """A service cannot turn a setting behind another's back."""
    found = load()
    with pytest.raises(ValueError, match="frozen"):
        found.repository = Path("/x")
    with pytest.raises(ValueError, match="frozen"):
        found.server.url = "x"
    assert found == Settings()


def test_a_limit_is_taken_out_with_null_and_options_go_before_variables(monkeypatch) -> None:
    """On every level of the tree; an option that was not given leaves the variable alone."""
    monkeypatch.setenv("POLICYCTL_GATES__REPLAY__AGREEMENT", "null")
    monkeypatch.setenv("POLICYCTL_GATES__BEHAVIOUR__MARGIN", "5")
    monkeypatch.setenv("POLICYCTL_GATES__BEHAVIOUR__EPISODES", "50")
    gates = load(gates={"behaviour": {"env": "CartPole-v1", "episodes": 30, "margin": None}}).gates
    assert gates.replay.agreement is None
    assert (gates.behaviour.env, gates.behaviour.episodes, gates.behaviour.margin) == ("CartPole-v1", 30, 5.0)


@pytest.mark.parametrize("address", ["s3://KEY:se/cret@policies/robots", "az://policies?sig=secret", "gs://p#secret"])
def test_a_store_with_a_secret_in_its_address_is_refused_without_it(monkeypatch, address: str) -> None:
    """Everybody who reads a fleet reads its address."""
    monkeypatch.setenv("POLICYCTL_FLEET__STORE", address)
    with pytest.raises(UsageError, match=r"fleet\.store.*credentials") as refusal:
        load()
    assert "cret" not in f"{refusal.value.problem} {refusal.value.remedy}"


@pytest.mark.parametrize("name", ["bake.prometheus", "tracing.endpoint"])
def test_a_password_in_a_url_is_masked_wherever_settings_are_shown(monkeypatch, name: str) -> None:
    """As a value, as what a variable sets, and in a refusal."""
    url = "http://bob:hunt/er2@10.0.0.7:9090/x?token=hunter2"
    monkeypatch.setenv(f"POLICYCTL_{name.replace('.', '__').upper()}", url)
    (found,) = explain(source().read(), name)
    assert found.value == found.layers[0].value == "http://********@10.0.0.7:9090/x?********"
    monkeypatch.setenv(f"POLICYCTL_{name.replace('.', '__').upper()}", f"{url} x")
    with pytest.raises(UsageError) as refusal:
        load()
    assert "hunt" not in refusal.value.problem
