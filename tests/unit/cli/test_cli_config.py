"""`policyctl config`, and the options before a command that choose settings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from policyctl.adapters import endpoint as endpoints
from policyctl.adapters.pbtxt import config_differences
from policyctl.services import running
from policyctl.settings import load

KEY = "s3cret"


def yaml(name: str, text: str) -> None:
    Path(name).write_text(f"schema: 2\n{text}")
    Path(name).chmod(0o600)


def test_show_tells_every_value_with_its_place_and_no_secret(run, monkeypatch) -> None:
    """As a table and as JSON; warnings go to stderr."""
    yaml("policyctl.yaml", f"server:\n  http_port: 9000\n  api_key: {KEY}\n")
    monkeypatch.setenv("POLICYCTL_REGISTRY__PASSWORD", KEY)
    shown = run("config", "show", "--json").document["settings"]
    assert shown["server.http_port"] == {"value": 9000, "from": "policyctl.yaml:3"}
    assert shown["server.api_key"] == {"value": "********", "from": "policyctl.yaml:4"}
    assert shown["registry.password"]["from"] == "POLICYCTL_REGISTRY__PASSWORD"
    assert shown["server.grpc_port"] == {"value": 8001, "from": "default"}
    table = run("config", "show", "server", "--changed")
    assert "policyctl.yaml:3" in table.out
    assert "grpc_port" not in table.out
    assert KEY not in table.out + json.dumps(shown)
    Path("policyctl.yaml").chmod(0o644)
    assert "WARNING: server.api_key (policyctl.yaml:4)" in run("config", "show").err


def test_the_profile_and_the_file_are_chosen_before_the_command(run, monkeypatch) -> None:
    """For every command; and `bench` keeps its own --profile."""
    yaml("policyctl.yaml", "lock_wait_s: 1\n")
    yaml("policyctl.lab.yaml", "lock_wait_s: 2\n")
    yaml("other.yaml", "lock_wait_s: 3\n")

    def wait(*root: str) -> float:
        return run(*root, "config", "show", "lock_wait_s", "--json").document["settings"]["lock_wait_s"]["value"]

    assert (wait(), wait("--profile", "lab"), wait("--config", "other.yaml")) == (1, 2, 3)
    assert wait() == 1
    monkeypatch.setenv("POLICYCTL_PROFILE", "lab")
    assert wait() == 2
    refused = run("--profile", "labb", "status")
    assert (refused.code, "lab?" in refused.err) == (2, True)
    ran = run("--profile", "lab", "bench", "walker", "--profile", "nonsense")
    assert ran.code == 2
    assert "nonsense" in ran.err


def test_explain_tells_each_layer_also_of_broken_settings(run, monkeypatch) -> None:
    """The first that is asked when something is wrong."""
    yaml("policyctl.yaml", "server:\n  http_port: 70000\n")
    monkeypatch.setenv("POLICYCTL_SERVER__HTTP_PORT", "9002")
    ran = run("config", "explain", "server.http_port")
    assert ran.code == 0
    assert ran.out.splitlines()[0] == "server.http_port = 9002"
    assert "environment, POLICYCTL_SERVER__HTTP_PORT: 9002" in ran.out
    assert "base file, policyctl.yaml:3: 70000  (overruled)" in ran.out
    assert "default: 8000" in ran.out
    assert "1 problem" in ran.err
    (found,) = run("config", "explain", "server.http_port", "--json").document
    assert [s["place"] for s in found["layers"]] == ["POLICYCTL_SERVER__HTTP_PORT", "policyctl.yaml:3"]
    assert (found["variable"], found["applies"]) == ("POLICYCTL_SERVER__HTTP_PORT", "start")
    refused = run("config", "explain", "server.http_prt")
    assert (refused.code, "server.http_port" in refused.err) == (2, True)


def test_validate_tells_everything_and_exits_with_2(run) -> None:
    """Of several files, as JSON too; a dry word where nothing is wrong."""
    assert run("config", "validate").out == "Nothing is wrong: no settings file.\n"
    yaml("policyctl.yaml", "server:\n  http_prt: 1\n  grpc_port: 70000\n")
    yaml("policyctl.lab.yaml", "scrub:\n  pause_s: x\n")
    refused = run("config", "validate")
    assert refused.code == 2
    assert "3 problems in policyctl.yaml, policyctl.lab.yaml" in refused.err
    document = run("config", "validate", "--json")
    assert document.code == 2
    assert [(p["file"], p["line"], p["key"]) for p in document.document["problems"]] == [
        ("policyctl.yaml", 3, "server.http_prt"),
        ("policyctl.yaml", 4, "server.grpc_port"),
        ("policyctl.lab.yaml", 3, "scrub.pause_s"),
    ]
    yaml("good.yaml", "")
    assert run("config", "validate", "good.yaml").code == 0


@pytest.mark.parametrize("name", ["policyctl.yaml", "policyctl.toml"])
def test_init_writes_a_file_that_works_and_never_overwrites(run, name: str) -> None:
    """For its owner alone; of a profile with what its rules ask."""
    assert "schema" in run("config", "init", name, "--dry-run").out
    assert not Path(name).exists()
    assert run("config", "init", name).code == 0
    assert Path(name).stat().st_mode & 0o777 == 0o600
    assert run("config", "validate", name).code == 0
    Path(name).write_text("mine")
    refused = run("config", "init", name)
    assert (refused.code, Path(name).read_text()) == (2, "mine")
    Path(name).unlink()
    for profile in ("production", "staging", "lab"):
        assert run("--profile", profile, "config", "init", f"policyctl.{profile}{Path(name).suffix}").code == 0
        assert run("--profile", profile, "config", "show").code == 0


@pytest.mark.parametrize("suffix", [".yaml", ".toml"])
def test_the_file_of_production_has_a_bake_whose_rule_holds(run, suffix: str) -> None:
    """Five minutes, and a release of which it saw too little goes back; another profile's has none."""
    for profile, bake in (("production", (300.0, "rollback")), ("staging", (0.0, "rollback"))):
        assert run("--profile", profile, "config", "init", f"policyctl.{profile}{suffix}").code == 0
        found = load(profile=profile).bake
        assert (found.for_s, found.on_inconclusive) == bake
    path = Path(f"policyctl.production{suffix}")
    path.write_text(path.read_text().replace("300", "60"))
    assert load(profile="production").bake.for_s == 60.0


def test_diff_of_profiles_and_files(run) -> None:
    """What differs, and where each was set; nothing else."""
    yaml("policyctl.yaml", "lock_wait_s: 1\n")
    yaml("policyctl.a.yaml", "scrub:\n  pause_s: 1\n")
    yaml("policyctl.b.yaml", "scrub:\n  pause_s: 2\n")
    found = run("config", "diff", "a", "b", "--json").document["settings"]
    assert [(d["what"], d["first"], d["second"]) for d in found] == [
        ("profile", "a", "b"),
        ("scrub.pause_s", 1.0, 2.0),
    ]
    assert found[1]["second_place"] == "policyctl.b.yaml:3"
    (one,) = run("config", "diff", "defaults", "policyctl.yaml", "--json").document["settings"]
    assert one["what"] == "lock_wait_s"
    assert "do not differ" in run("config", "diff", "a", "a").out
    assert run("config", "diff", "a", "nobody").code == 2
    assert run("config", "diff", "current", "running").code == 6


def test_diff_of_profiles_that_have_no_file(run) -> None:
    """As the help shows it: what differs, and why neither would start a server as it stands."""
    shown = run("config", "diff", "staging", "production")
    assert shown.code == 0
    assert "profile  staging  production" in shown.out
    assert "Caution: production as it stands is refused: security.unpickle" in shown.err
    assert "Caution: staging as it stands is refused: integrity.signatures" in shown.err
    yaml("policyctl.staging.yaml", "serving: 3\n")
    assert run("config", "diff", "staging", "production").code == 2


def test_a_settings_file_that_is_not_there_is_named(run) -> None:
    """Where it was asked for, and without a word for a place that it does not have."""
    refused = run("--config", "nofile.yaml", "config", "show")
    expected = "nofile.yaml is not a file, expected a .yaml or .toml file that can be read"
    assert f"Error (usage): settings: {expected}\n" in refused.err
    assert "settings: 1 problem\n" in run("--config", "nofile.yaml", "config", "validate").err
    Path("policyctl.yaml").touch()
    Path("policyctl.toml").touch()
    both = "Error (usage): settings: policyctl.yaml and policyctl.toml are both there, expected one of them\n"
    assert both in run("config", "show").err


def test_diff_tells_what_the_running_server_and_triton_use(run, served_world, monkeypatch) -> None:
    """A setting that waits, one that a promotion would apply, and a field that Triton has otherwise."""
    world = served_world
    placement = world.state.alias("walker", "production").placement
    text = placement.config.replace("max_batch_size: 64", "max_batch_size: 32")
    world.server.endpoint = replace(
        world.server.endpoint, http="127.0.0.1:9", grpc="127.0.0.1:8001", metrics="127.0.0.1:8002"
    )
    monkeypatch.setattr(type(world.server), "config", lambda _self, _name: text, raising=False)
    yaml("policyctl.yaml", "scrub:\n  pause_s: 60\nserving:\n  max_queue_delay_us: 7\n")
    document = run("config", "show", "--json").document["settings"]
    values = {name: each["value"] for name, each in document.items()}
    running.write(
        world.control.repository,
        running.Running(
            endpoints.THIS_PROCESS, "", [], {**values, "scrub.pause_s": 600.0}, {"scrub.pause_s": "old.yaml:3"}
        ),
    )
    found = run("config", "diff", "current", "running", "--json").document
    assert [(d["what"], d["first"], d["second"], d["second_place"]) for d in found["settings"]] == [
        ("scrub.pause_s", 60.0, 600.0, "old.yaml:3")
    ]
    served = {d["what"]: (d["first"], d["second"]) for d in found["served"]}
    assert served == {
        "listens: http": ("127.0.0.1:8000", "127.0.0.1:9"),
        "walker: max_batch_size": (64, 32),
        "walker: serving.max_queue_delay_us": (7, 0),
    }
    assert found["effective"] == {"walker": text}
    turned = run("config", "diff", "running", "current", "--json").document["served"]
    assert {d["what"]: (d["second"], d["first"]) for d in turned} == served


def test_only_what_was_declared_counts_as_a_difference() -> None:
    """What Triton adds by itself does not count."""
    said = 'backend: "x"\nmax_batch_size: 4\ninstance_group { count: 1 kind: KIND_CPU }\n'
    used = said.replace("count: 1", 'name: "w_0" count: 1') + "optimization { priority: PRIORITY_DEFAULT }\n"
    assert config_differences(said, used) == []
    assert config_differences(said, used.replace("count: 1", "count: 2")) == [("instance_group[0].count", 1, 2)]
    assert config_differences(said, 'backend: "x"\n') == [
        ("max_batch_size", 4, None),
        ("instance_group", [{"count": 1, "kind": "KIND_CPU"}], None),
    ]


def test_schema_and_docs_are_printed(run) -> None:
    """For editors and people."""
    assert run("config", "schema").document["required"] == ["schema"]
    assert run("config", "docs").out.startswith("# Settings")


def test_production_unpickles_nothing_whoever_asks(run) -> None:
    """Neither for an export nor for a reference; elsewhere the question goes on to the file."""
    Path("ppo.zip").write_bytes(b"x")
    yaml("policyctl.production.yaml", "integrity:\n  signatures: required\nsecurity:\n  unpickle: false\n")
    refused = run("--profile", "production", "export", "ppo.zip", "--trust-pickle", "-o", "out")
    assert (refused.code, "security.unpickle" in refused.err) == (2, True)
    refused = run("--profile", "production", "evaluate", "m", "--env", "E", "--reference", "ppo.zip", "--trust-pickle")
    assert "security.unpickle" in refused.err


def test_every_command_of_the_group_has_help_with_an_example(run) -> None:
    """As every other command has."""
    for name in ("show", "explain", "validate", "diff", "schema", "docs", "init"):
        shown = run("config", name, "--help")
        assert (shown.code, f"config {name}" in shown.out) == (0, True)
