"""Settings files: which are read, what they may hold, and secrets next to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyctl.config.files import parse_file
from policyctl.errors import UsageError
from policyctl.services.settings.explained import explain
from policyctl.services.settings.files import starter
from policyctl.settings import Settings, load, source


def write(name: str, text: str, mode: int = 0o600) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("name", ["policyctl.yaml", "policyctl.yml", "policyctl.toml"])
def test_a_file_in_the_working_directory_is_found(name: str) -> None:
    """Under one of three names."""
    write(name, "schema = 2\nlock_wait_s = 7\n" if name.endswith("toml") else "schema: 2\nlock_wait_s: 7\n")
    assert load().lock_wait_s == 7


def test_two_files_that_could_both_be_meant_are_refused() -> None:
    """Nobody has to know which one would win."""
    write("policyctl.yaml", "schema: 2\n")
    write("policyctl.toml", "schema = 2\n")
    with pytest.raises(UsageError, match=r"policyctl\.yaml and policyctl\.toml are both there"):
        load()
    Path("policyctl.toml").unlink()
    for suffix in ("yaml", "toml"):
        write(f"policyctl.staging.{suffix}", "")
    with pytest.raises(UsageError, match="both there"):
        load(profile="staging")


def test_a_named_file_is_read_instead_and_must_be_there(monkeypatch) -> None:
    """By option before the variable."""
    write("policyctl.yaml", "schema: 2\nlock_wait_s: 1\n")
    write("etc/a.yaml", "schema: 2\nlock_wait_s: 2\n")
    write("etc/b.toml", "schema = 2\nlock_wait_s = 3\n")
    monkeypatch.setenv("POLICYCTL_CONFIG", "etc/a.yaml")
    assert load().lock_wait_s == 2
    assert load(config=Path("etc/b.toml")).lock_wait_s == 3
    with pytest.raises(UsageError, match=r"c\.yaml is not a file"):
        load(config=Path("c.yaml"))
    with pytest.raises(UsageError, match="cannot be read"):
        load(config=Path("x" * 300 + ".yaml"))


def test_the_file_of_a_profile_lies_beside_the_base_file_and_over_it(monkeypatch) -> None:
    """Named by option, variable or the base file itself, in this order."""
    write("etc/base.yaml", "schema: 2\nprofile: one\nlock_wait_s: 1\nserver:\n  timeout_s: 1\n")
    write("etc/base.one.toml", "schema = 2\nlock_wait_s = 11\n")
    write("etc/base.two.yaml", "schema: 2\nlock_wait_s: 12\n")
    write("base.two.yaml", "schema: 2\nlock_wait_s: 99\n")
    config = Path("etc/base.yaml")
    found = load(config=config)
    assert (found.profile, found.lock_wait_s, found.server.timeout_s) == ("one", 11, 1)
    monkeypatch.setenv("POLICYCTL_PROFILE", "two")
    assert load(config=config).lock_wait_s == 12
    assert load(config=config, profile="one").lock_wait_s == 11
    monkeypatch.setenv("POLICYCTL_PROFILE", "")
    assert load(config=config).lock_wait_s == 11


@pytest.mark.parametrize("name", ["prodution", "../x", "Production", "a.b", "a/b"])
def test_a_profile_that_is_none_is_refused(name: str) -> None:
    """A misspelt one would leave its rules and its file out."""
    with pytest.raises(UsageError, match="profile") as refusal:
        load(profile=name)
    if name == "prodution":
        assert "production?" in refusal.value.problem


def test_the_file_of_a_profile_names_no_other() -> None:
    """It would be applied under rules that are not its own."""
    write("policyctl.one.yaml", "schema: 2\nprofile: production\n")
    with pytest.raises(UsageError, match=r"policyctl\.one\.yaml:2"):
        load(profile="one")


def test_words_that_older_yaml_takes_for_truth_values_are_texts() -> None:
    """``signatures: off`` means the rule `off`."""
    write("policyctl.yaml", "schema: 2\nintegrity:\n  signatures: off\nserving:\n  native: on\n")
    found = load()
    assert (found.integrity.signatures, found.serving.native) == ("off", "on")


def test_null_takes_a_limit_out_in_yaml_and_in_toml() -> None:
    """TOML has no word for it, so there, as in the environment, the text stands for it."""
    write("policyctl.yaml", "schema: 2\ngates:\n  replay:\n    agreement: null\n")
    assert load().gates.replay.agreement is None
    Path("policyctl.yaml").unlink()
    write("policyctl.toml", 'schema = 2\n[gates.replay]\nagreement = "null"\n')
    assert load().gates.replay.agreement is None


def test_a_path_in_a_file_is_told_from_its_own_folder() -> None:
    """So a file means the same from everywhere; what is typed starts at the working directory."""
    write("etc/p.yaml", "schema: 2\nrepository: models\nintegrity:\n  trust: /abs/trust.yaml\n")
    config = Path("etc/p.yaml")
    assert load(config=config).repository == Path("etc/models")
    assert load(config=config).integrity.trust == Path("/abs/trust.yaml")
    assert load(config=config, repository=Path("here")).repository == Path("here")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("server:\n  http_port: 1\n", "schema"),
        ("schema: 3\n", "newer policyctl"),
        ("schema: two\n", "schema"),
        ("schema: 2\nserver:\n  http_prt: 1\n", r"policyctl\.yaml:3\): unknown, expected http_port"),
        ("schema: 2\nscrubb:\n  enabled: true\n", r"policyctl\.yaml:2\): unknown, expected scrub"),
        ("schema: 2\nhttp_port: 1\n", r"server\.http_port"),
        ("schema: 2\nserver: 1\n", "a mapping: host"),
        ("schema: 2\nserver:\n  http_port: 1\n  http_port: 2\n", r"policyctl\.yaml:4.*twice"),
        ("schema: 2\nserver: &a\n  http_port: 1\n", "anchor"),
        ("schema: 2\nserver: [\n", r"policyctl\.yaml:3"),
        ("- 1\n", "not a mapping"),
        ("schema: 2\n_env_file: x\n", "_env_file"),
        ("schema: 2\nserver:\n  api_key: {file: nowhere}\n", "nowhere cannot be read"),
        ("schema: 2\nserver:\n  api_key: {path: x}\n", "a text, or {file: PATH}"),
        ("schema: 2\nserver:\n  api_key: [s3cret]\n", "a value that is not shown"),
        ("schema: 1\nserver:\n  http_port: 1\n", r"schema \(policyctl\.yaml:1\): 1, expected 2"),
    ],
)
def test_what_no_settings_file_may_hold_is_refused_with_its_line(text: str, words: str) -> None:
    """Never ignored: it is most likely a misspelt setting."""
    write("policyctl.yaml", text)
    with pytest.raises(UsageError, match=words) as refusal:
        load()
    assert "s3cret" not in refusal.value.problem


@pytest.mark.parametrize("text", ["schema = 2\na = [\n", "schema = 2\n[server]\nhttp_port = x\n"])
def test_broken_toml_is_refused_with_its_line(text: str) -> None:
    """As YAML is."""
    write("policyctl.toml", text)
    with pytest.raises(UsageError, match=r"policyctl\.toml:[23]"):
        load()


def test_lines_of_toml_are_those_of_the_statements() -> None:
    """Through comments, strings and lists over many lines, dotted names and inline tables."""
    write(
        "policyctl.toml",
        'schema = 2\n# [no.header]\nserver.host = "::1"\n\n[gates]\nvalidate_with = [\n  "a", # ]\n  "b",\n]\n'
        "[gates.behaviour]\nenv = '''\n[x]\n'''\nepisodes = 5\n[serving]\nparameters = { A = \"1\", B = \"2\" }\n",
    )
    reading = source().read()
    places = {e.key.name: [s.place for s in e.layers] for e in explain(reading) if e.layers}
    assert places == {
        "server.host": ["policyctl.toml:3"],
        "gates.validate_with": ["policyctl.toml:6"],
        "gates.behaviour.env": ["policyctl.toml:11"],
        "gates.behaviour.episodes": ["policyctl.toml:14"],
        "serving.parameters": ["policyctl.toml:16"] * 2,
    }
    assert reading.require().gates.behaviour.env == "[x]\n"


def test_a_group_of_comments_is_none() -> None:
    """What the starter holds, before anything is changed."""
    write("policyctl.yaml", "schema: 2\nserver:\n  # http_port: 1\ngates:\n  replay:\n")
    assert load() == Settings()


def test_a_secret_may_stand_in_a_file_of_its_own(monkeypatch) -> None:
    """Paths start at the folder of the settings file; in the environment, at the working directory."""
    write("etc/key", "s3cret\n")
    write("etc/other", "0ther")
    write("etc/p.yaml", "schema: 2\nserver:\n  api_key: {file: key}\n")
    config = Path("etc/p.yaml")
    assert load(config=config).server.api_key.get_secret_value() == "s3cret"
    assert source(config=config).read().warnings == ()
    monkeypatch.setenv("POLICYCTL_SERVER__API_KEY__FILE", "etc/other")
    reading = source(config=config).read()
    assert reading.require().server.api_key.get_secret_value() == "0ther"
    (found,) = explain(reading, "server.api_key")
    assert [s.value for s in found.layers] == [{"file": "etc/other"}, {"file": "etc/key"}]
    assert found.value == "********"
    monkeypatch.delenv("POLICYCTL_SERVER__API_KEY__FILE")
    monkeypatch.setenv("POLICYCTL_SERVER__API_KEY", "typed")
    assert load(config=config).server.api_key.get_secret_value() == "typed"


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff", b"x" * 70_000])
def test_a_file_that_holds_no_secret_is_refused(content: bytes) -> None:
    """An empty key would be none."""
    Path("key").write_bytes(content)
    write("policyctl.yaml", "schema: 2\nserver:\n  api_key: {file: key}\n")
    with pytest.raises(UsageError, match=r"server\.api_key \(policyctl\.yaml:3\): key "):
        load()


def test_secrets_that_everybody_can_read_are_warned_of() -> None:
    """In separate files, and in settings files; not where their owner alone can."""
    write("key", "s3cret", 0o644)
    write("policyctl.yaml", "schema: 2\nserver:\n  api_key: {file: key}\nregistry:\n  password: s3cret\n", 0o644)
    own, plain = sorted(source().read().warnings, key=lambda w: "policyctl.yaml:5" in w)
    assert "can read key" in own
    assert "policyctl.yaml:5" in plain
    assert "s3cret" not in own + plain
    Path("key").chmod(0o600)
    Path("policyctl.yaml").chmod(0o640)
    assert source().read().warnings == ()


def test_a_misspelt_variable_is_told_with_the_nearest(monkeypatch) -> None:
    """On every level."""
    monkeypatch.setenv("POLICYCTL_SERVER__HTTPPORT", "1")
    monkeypatch.setenv("POLICYCTL_GATES__REPLY__AGREEMENT", "1")
    with pytest.raises(UsageError) as refusal:
        load()
    assert "POLICYCTL_SERVER__HTTPPORT" in refusal.value.problem
    assert "POLICYCTL_SERVER__HTTP_PORT" in refusal.value.problem
    assert "POLICYCTL_GATES__REPLAY__AGREEMENT" in refusal.value.problem


def test_a_variable_that_is_no_json_does_not_hide_what_else_is_wrong(monkeypatch) -> None:
    """And what stands in it is not shown, for a key may."""
    monkeypatch.setenv("POLICYCTL_SERVER", "{s3cret")
    monkeypatch.setenv("POLICYCTL_LOCK_WAIT_S", "soon")
    with pytest.raises(UsageError, match=r"(?s)lock_wait_s.*POLICYCTL_SERVER|POLICYCTL_SERVER.*lock_wait_s") as refusal:
        load()
    assert "s3cret" not in refusal.value.problem


@pytest.mark.parametrize("suffix", [".yaml", ".toml"])
def test_the_starter_says_nothing_and_every_default_once_its_marks_are_taken_away(suffix: str) -> None:
    """So each line of it is right, as it stands and uncommented."""
    text = starter(toml=suffix == ".toml")
    assert parse_file(Settings, Path(f"x{suffix}"), text.encode()).problems == ()
    lines = [line.replace("# ", "", 1) if line.lstrip().startswith("# ") else line for line in text.splitlines()]
    found = parse_file(Settings, Path(f"x{suffix}"), "\n".join(lines).encode())
    assert found.problems == ()
    assert Settings(**found.data) == Settings()
    assert sum(1 for line in text.splitlines() if line.lstrip().startswith("# ")) > 40
