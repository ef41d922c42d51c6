"""Layers: the highest that sets something wins, and explain names exactly those that set it."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.config.keys import keys
from policyctl.documents.toml_text import value_text as toml_value
from policyctl.documents.yaml_text import dump
from policyctl.services.settings.explained import explain
from policyctl.settings import PREFIX, Settings, source

KEYS = {
    "repository": ["a", "b", "/c"],
    "lock_wait_s": [0.5, 1.0, 7.0],
    "server.http_port": [1, 2, 65535],
    "server.timeout_s": [0.25, 9.0],
    "serving.gpu": [True, False],
    "serving.native": ["on", "off", "auto"],
    "serving.memory_reserve_mib": [None, 3, 4],
    "serving.preferred_batch_sizes": [[1], [2, 4], []],
    "serving.parameters.NUM_STREAMS": ["1", "2"],
    "serving.parameters.other": ["x", "null-ish"],
    "gates.replay.agreement": [None, 0.5, 1],
    "gates.promote_with": [[], ["replay"]],
    "integrity.signatures": ["off", "warn", "required"],
}
LAYERS = ("command line", "environment", "profile file", "base file")
layer = st.dictionaries(st.sampled_from(sorted(KEYS)), st.integers(0, 2), max_size=6)


def tree(flat: dict[str, object]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in flat.items():
        here = found
        *parents, last = name.split(".")
        for part in parents:
            here = here.setdefault(part, {})
        here[last] = value
    return found


def chosen(picked: dict[str, int]) -> dict[str, object]:
    return {name: KEYS[name][index % len(KEYS[name])] for name, index in picked.items()}


@contextmanager
def world(layers: dict[str, dict[str, object]], *, toml: tuple[bool, bool] = (False, False)):
    """The settings of these layers, read."""
    variables = {"POLICYCTL_PROFILE": "robots"}
    parameters = {}
    for name, value in layers["environment"].items():
        if name.startswith("serving.parameters."):
            parameters[name.rpartition(".")[2]] = value
            continue
        text = value if isinstance(value, str) else json.dumps(value)
        variables[PREFIX + name.replace(".", "__").upper()] = text
    if parameters:
        variables["POLICYCTL_SERVING__PARAMETERS"] = json.dumps(parameters)
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, variables):
        for kind, stem, as_toml in zip(LAYERS[2:], ("p.robots", "p"), toml, strict=True):
            data = tree(layers[kind])
            if as_toml:
                text = "schema = 2\n" + "".join(f"{k} = {toml_value(v)}\n" for k, v in data.items())
                Path(folder, f"{stem}.toml").write_text(text)
            else:
                Path(folder, f"{stem}.yaml").write_text(dump({"schema": 2, **data}))
        base = Path(folder, "p.toml" if toml[1] else "p.yaml")
        yield source(config=base, **tree({k: v for k, v in layers["command line"].items() if v is not None})).read()


@settings(max_examples=60, deadline=None)
@given(st.tuples(layer, layer, layer, layer), st.tuples(st.booleans(), st.booleans()))
def test_the_highest_layer_wins_and_explain_names_exactly_those_that_set_it(picked, toml) -> None:
    """For any subset of layers that set any subset of settings, in YAML and in TOML."""
    layers = {kind: chosen(each) for kind, each in zip(LAYERS, picked, strict=True)}
    # An option that was not given is None.
    layers["command line"] = {k: v for k, v in layers["command line"].items() if v is not None}
    with world(layers, toml=toml) as reading:
        found = reading.require()
        defaults = Settings()
        explained = {e.key.name: e for e in explain(reading)}
        folder = reading.files[0].parent
        for name in KEYS:
            top = ".".join(name.split(".")[:2]) if name.startswith("serving.parameters") else name
            setting = [kind for kind in LAYERS if name in layers[kind]]
            inner = name.removeprefix(f"{top}.") if top != name else ""
            named = [s.layer for s in explained[top].layers if s.name == inner]
            assert named == setting
            value = found
            for part in name.split("."):
                value = value.get(part) if isinstance(value, dict) else getattr(value, part)
            if setting:
                want = layers[setting[0]][name]
                if name == "repository":
                    want = folder / want if setting[0].endswith("file") else Path(want)
                assert value == (tuple(want) if isinstance(want, list) else want)
            elif not inner:
                assert value == getattr_path(defaults, name)


def getattr_path(value, name: str):
    for part in name.split("."):
        value = getattr(value, part)
    return value


def test_explain_names_file_and_line_variable_and_default(tmp_path, monkeypatch) -> None:
    """Each layer by where a person would change it."""
    Path("policyctl.yaml").write_text("schema: 2\nserver:\n  # the proxy's\n  http_port: 9000\n")
    Path("policyctl.robots.toml").write_text("schema = 2\n\n[server]\ngrpc_port = 1\nhttp_port = 9001\n")
    monkeypatch.setenv("POLICYCTL_PROFILE", "robots")
    monkeypatch.setenv("POLICYCTL_SERVER__HTTP_PORT", "9002")
    (found,) = explain(source(server={"http_port": 9003}).read(), "server.http_port")
    assert [s.place for s in found.layers] == [
        "command line",
        "POLICYCTL_SERVER__HTTP_PORT",
        "policyctl.robots.toml:5",
        "policyctl.yaml:4",
    ]
    assert (found.value, found.default) == (9003, 8000)
    (untouched,) = explain(source().read(), "server.metrics_port")
    assert (untouched.layers, untouched.place) == ((), "default")


def test_a_variable_of_a_whole_group_is_named_for_what_it_sets(monkeypatch) -> None:
    """JSON for a group, and a part of it on its own."""
    monkeypatch.setenv("POLICYCTL_SERVER", '{"http_port": 1, "grpc_port": 2}')
    monkeypatch.setenv("POLICYCTL_SERVER__GRPC_PORT", "3")
    reading = source().read()
    places = {e.key.name: e.place for e in explain(reading, "server") if e.layers}
    assert places == {"server.http_port": "POLICYCTL_SERVER", "server.grpc_port": "POLICYCTL_SERVER__GRPC_PORT"}
    assert (reading.require().server.http_port, reading.require().server.grpc_port) == (1, 3)


def test_what_was_set_is_known_as_set(tmp_path) -> None:
    """A file that names a default means it: what was tuned does not go before it."""
    Path("policyctl.yaml").write_text("schema: 2\nserving:\n  instances: 1\n")
    assert source().read().require().serving.model_fields_set == {"instances"}


def test_every_setting_says_what_it_is_and_when_a_change_counts() -> None:
    """The reference, the starter and explain have words for each."""
    assert [key.name for key in keys(Settings).values() if not key.info.description] == []
    assert {key.applies.value for key in keys(Settings).values()} == {"live", "command", "move", "start"}
