"""Profiles: what each asks of the settings as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyctl.errors import UsageError
from policyctl.settings import load

SAFE = {"integrity": {"signatures": "required"}, "security": {"unpickle": False}}


def over(base: dict, more: dict) -> dict:
    return {k: {**base.get(k, {}), **more.get(k, {})} for k in {**base, **more}}


@pytest.mark.parametrize(
    ("profile", "more", "broken"),
    [
        ("development", {"integrity": {"signatures": "off"}, "server": {"host": "0.0.0.0"}}, None),
        ("staging", {"integrity": {"signatures": "off"}}, "integrity.signatures"),
        ("staging", {"integrity": {"signatures": "warn"}, "security": {"unpickle": True}}, None),
        ("staging", {"server": {"host": "0.0.0.0"}}, "server.host"),
        ("production", {}, None),
        ("production", {"integrity": {"signatures": "warn"}}, "integrity.signatures"),
        ("production", {"security": {"unpickle": True}}, "security.unpickle"),
        ("staging", {"tracing": {"unguarded": True}}, None),
        ("production", {"tracing": {"unguarded": True}}, "tracing.unguarded"),
        ("staging", {"server": {"http": "on"}}, None),
        ("production", {"server": {"http": "on"}}, "server.http"),
        ("production", {"server": {"http": "off"}}, None),
        ("production", {"server": {"host": "0.0.0.0"}}, "server.host"),
        ("production", {"server": {"host": "robots.example.org"}}, "server.host"),
        ("production", {"server": {"host": "127.0.0.2"}}, None),
        ("production", {"server": {"host": "::1"}}, None),
        ("production", {"server": {"host": "localhost"}}, None),
        ("production", {"server": {"host": "0.0.0.0"}, "security": {"tls_terminated": True}}, None),
        ("production", {"server": {"url": "gpu:8001"}}, "server.api_key"),
        ("production", {"server": {"url": "gpu:8001", "api_key": "k"}}, None),
    ],
)
def test_a_profile_holds_what_it_asks(profile: str, more: dict, broken: str | None) -> None:
    """Each rule, on both sides of it."""
    given = over(SAFE, more)
    if broken is None:
        assert load(profile=profile, **given).profile == profile
        return
    with pytest.raises(UsageError, match=rf"{broken} .*profile {profile}"):
        load(profile=profile, **given)


def test_all_broken_rules_are_told_at_once_with_where_it_was_set() -> None:
    """A default is named as one."""
    Path("policyctl.yaml").write_text("schema: 2\nprofile: production\nserver:\n  host: 0.0.0.0\n")
    with pytest.raises(UsageError) as refusal:
        load()
    assert "server.host (policyctl.yaml:4)" in refusal.value.problem
    assert "integrity.signatures (default): off" in refusal.value.problem
    assert "security.unpickle (default)" in refusal.value.problem


def test_production_keeps_secrets_out_of_settings_files(monkeypatch) -> None:
    """Of the base file as well; a separate file and the environment will do."""
    Path("key").write_text("s3cret")
    text = "schema: 2\nintegrity: {signatures: required}\nsecurity: {unpickle: false}\n"
    Path("policyctl.yaml").write_text(text + "server:\n  api_key: s3cret\n")
    assert load().server.api_key.get_secret_value() == "s3cret"
    with pytest.raises(UsageError, match=r"server\.api_key \(policyctl\.yaml:5\): a secret") as refusal:
        load(profile="production")
    assert "s3cret" not in refusal.value.problem
    Path("policyctl.yaml").write_text(text + "server:\n  api_key: {file: key}\n")
    assert load(profile="production").server.api_key.get_secret_value() == "s3cret"
    monkeypatch.setenv("POLICYCTL_REGISTRY__PASSWORD", "0ther")
    assert load(profile="production").registry.password.get_secret_value() == "0ther"
