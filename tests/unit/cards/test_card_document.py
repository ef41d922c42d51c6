"""Reading and writing a card's YAML: one meaning for every reader, and every fault at once."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from card_examples import FULL, PUBLISHED, printable, values
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.card import reading, template
from policyctl.card.check import check
from policyctl.card.reading import check_schema, require
from policyctl.card.rewriting import comments, extended
from policyctl.card.schema import Card, ServiceLevel
from policyctl.documents import yaml_text
from policyctl.documents.document import MOST_BYTES, Document
from policyctl.documents.yaml_text import dump
from policyctl.errors import UsageError
from policyctl.gates.service_level import ServiceLimits


def parse(content: bytes) -> Document:
    return yaml_text.parse(content, what="the text")


WRONG = b"""\
schema_version: 2
sumary: Walks.
training:
  seed: 1.5
  steps: 0
  framework: {version: 3}
  hyperparameters: {gamma: [1]}
  commit: main
evaluation:
  - environment: CartPole-v1
    episodes: 1
    first_seed: yes
    returns: {mean: .inf, low: 1e-4, high: 3, std: -1}
licence: who knows!
provenance:
  created: 2020-01-01
owners: nobody
owners: [{name: 3}]
extensions: {a: "x\\u0001"}
performance: {}
service_level: {p98_ms: 1}
"""

SAID = {
    "sumary": (2, "summary"),
    "training.seed": (4, "a whole number"),
    "training.steps": (5, "1 or more"),
    "training.framework.name": (6, "a value"),
    "training.framework.version": (6, "a text"),
    "training.hyperparameters.gamma": (7, "a number, a text"),
    "training.commit": (8, "a git commit"),
    "evaluation[0].evidence": (10, "the evidence"),
    "evaluation[0].episodes": (11, "2 or more"),
    "evaluation[0].first_seed": (12, "a whole number"),
    "evaluation[0].returns.mean": (13, "a finite number"),
    "evaluation[0].returns.std": (13, "0 or more"),
    "licence": (14, "an SPDX identifier"),
    "provenance.created": (16, "a time like"),
    "owners": (18, "each field once"),
    "owners[0].name": (18, "a text"),
    "extensions.a": (19, "printable text"),
    "performance": (20, "a list"),
    "service_level.p98_ms": (21, "p95_ms"),
}


def test_every_fault_of_a_card_is_reported_at_once_with_its_line() -> None:
    """Each field that is wrong is named once, with where it stands, what was found, and what is expected."""
    card, problems = check_schema(parse(WRONG))
    assert card is None
    named = {problem.path: problem for problem in problems}
    assert named.keys() == SAID.keys()
    assert len(problems) == len(SAID)
    for path, (line, words) in SAID.items():
        assert named[path].line == line, path
        assert words in named[path].expected, path
    with pytest.raises(UsageError, match="19 problems") as refusal:
        require(problems, "the card")
    assert all(path in refusal.value.problem for path in SAID)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &x 1\nb: *x", "plain values"),
        ("a: !!python/name:os.system x", "plain values"),
        ("a: !mine x", "plain values"),
        ("1: x", "a name in quotation marks"),
        ("a: {b: 1, b: 2}", "each field once"),
        ('a: "\\u0007"', "printable text"),
        ('a: "\\ud800"', "printable text"),
        ("a: .nan", "a finite number"),
        ("[a, b]: c", "a text as a name"),
    ],
)
def test_what_readers_disagree_about_is_reported(text: str, words: str) -> None:
    """Anchors, tags, double names, names that are no text, and what cannot be printed are faults, with their line."""
    complaints = parse(text.encode()).complaints
    assert complaints
    assert all(words in c.expected and c.line >= 1 for c in complaints)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: [", "not YAML"),
        (b"\xff", "not UTF-8"),
        (b"- a", "not a mapping"),
        (b"a: 1\n---\nb: 2", "not YAML"),
        (b"x" * (MOST_BYTES + 1), "at most"),
        (b"a: " + b"[" * 200 + b"]" * 200, "nested more than"),
        (b"a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nd: " + b"[*c,*c]" * 1, None),
    ],
)
def test_what_is_no_card_is_refused(content: bytes, words: str | None) -> None:
    """Other files, and ones made to exhaust a reader, are refused in words or read in bounds."""
    if words is None:
        assert parse(content).complaints
        return
    with pytest.raises(UsageError, match=words):
        parse(content)


def test_a_bomb_of_aliases_is_refused() -> None:
    """Nine levels of nine aliases would be millions of values."""
    levels = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9) if n else 'x'}]\n" for n in range(9))
    with pytest.raises(UsageError, match="more than 50000 values"):
        parse(levels.encode())


@settings(deadline=None)
@given(st.dictionaries(printable, values, max_size=4))
def test_what_is_written_is_read_back_by_every_reader(data) -> None:
    """Whatever the texts are, this reader and PyYAML's read the same values, and nothing is complained of."""
    text = dump(data)
    read = parse(text.encode())
    assert read.data == data
    assert read.complaints == ()
    assert yaml.safe_load(text) == (data or {})


def test_values_are_those_of_yaml_1_2() -> None:
    """The country Norway stays a text, an exponent needs no point, and a date is a text."""
    read = parse(b"a: no\nb: 1e-4\nc: 2026-01-31\nd: 1:30\ne: 0o17\nf: ~\ng: 'true'\nh: true\ni: 1_0\n").data
    assert read == {
        "a": "no",
        "b": 1e-4,
        "c": "2026-01-31",
        "d": "1:30",
        "e": 15,
        "f": None,
        "g": "true",
        "h": True,
        "i": "1_0",
    }


def test_a_whole_card_is_valid_and_says_what_it_said() -> None:
    """Every section of the schema is read, and written back without a change."""
    assert Card.model_validate(FULL).to_json() == FULL


def test_a_template_says_what_is_known_and_shows_what_is_not() -> None:
    """A card made of nothing is a card, and one made of every section says each of them."""
    empty = template.render({})
    assert parse(empty.encode()).data == {"schema_version": 2}
    assert "limits_of_use:" in empty
    assert parse(template.render(PUBLISHED).encode()).data == PUBLISHED
    # Uncommenting every example gives a valid card.
    filled = "\n".join(line.removeprefix("## ") for line in empty.splitlines())
    card, problems = check_schema(parse(filled.encode()))
    assert problems == ()
    assert card is not None
    assert card.owners


def test_the_limits_of_a_card_are_those_of_the_gate() -> None:
    """A limit that a card may state is one that the gate knows, and the other way round."""
    assert ServiceLevel.model_fields.keys() == asdict(ServiceLimits()).keys()
    stated = dict.fromkeys(ServiceLevel.model_fields, 3)
    ServiceLimits().overridden(ServiceLevel.model_validate(stated).model_dump())


@pytest.mark.parametrize(
    ("text", "words", "remedy"),
    [
        ("schema_version: two", r"the unknown schema_version 'two' \(line 1\), this policyctl reads 2", "Write"),
        ("a: 1\nschema_version: 3", r"the unknown schema_version 3 \(line 2\), this policyctl reads 2", "update"),
        ("schema_version: true", "the unknown schema_version True", "Write"),
        ("licence: MIT", "no schema_version, this policyctl reads 2", "Write schema_version: 2"),
    ],
)
def test_an_unknown_schema_is_refused(text: str, words: str, remedy: str) -> None:
    """The message names the value, what is known, and what to do."""
    with pytest.raises(UsageError, match=words) as refusal:
        reading.parse(text.encode())
    assert remedy in refusal.value.remedy


_comment = st.text(st.characters(codec="ascii", exclude_categories=("Cc", "Cs")), max_size=12).map(
    lambda text: ("# " + text).rstrip()
)


CARDS = [(data, dump(data)) for data in (PUBLISHED, {**PUBLISHED, "extensions": {"a": [1, {"b": "# no comment"}]}})]


@st.composite
def commented(draw) -> tuple[dict[str, object], str]:
    """What a card says, and its text with comments on separate lines and behind values."""
    data, text = draw(st.sampled_from(CARDS))
    given = text.splitlines()
    several = draw(st.lists(_comment, min_size=1, max_size=8))
    # A byte a line says where its comments stand: a draw for each comment would take most of the test's time.
    choices = draw(st.binary(min_size=len(given), max_size=len(given)))
    lines = []
    for line, choice in zip(given, choices, strict=True):
        comment = several[(choice >> 2) % len(several)]
        if choice & 1:
            lines.append(" " * (len(line) - len(line.lstrip())) + comment)
        lines.append(f"{line}  {comment}" if choice & 2 else line)
    return data, "\n".join([*lines, several[0], ""])


@settings(deadline=None, max_examples=15)
@given(commented(), st.booleans())
def test_entries_are_added_without_touching_the_rest(card: tuple[dict[str, object], str], again: bool) -> None:
    """New entries stand at the end of their lists; every other value and every comment stays."""
    entry = {"environment": "X-v0", "returns": {"mean": 1.5}}
    wanted = {"evaluation": [entry], "notes": [entry]} if again else {"evaluation": [entry]}
    before, text = card
    after = extended(text.encode(), wanted)
    read = parse(after.encode())
    assert read.data == {**before, **{k: [*before.get(k, []), *entries] for k, entries in wanted.items()}}
    assert read.complaints == ()
    assert not Counter(comments(text)) - Counter(comments(after))


@pytest.mark.parametrize("empty", ["[]", "null", "", "{}"])
def test_entries_are_added_to_an_empty_list(empty: str) -> None:
    """The section stands there once."""
    text = f"# mine\nschema_version: 2\nevaluation: {empty}\nname: x # y\n"
    after = extended(text.encode(), {"evaluation": [{"a": 1}]})
    assert parse(after.encode()).data == {"schema_version": 2, "evaluation": [{"a": 1}], "name": "x"}
    assert parse(after.encode()).complaints == ()
    assert comments(after)[-2:] == ["# mine", "# y"]


def _blocks(language: str) -> list[str]:
    text = (Path(__file__).parents[3] / "docs" / "model-cards.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_card_in_the_docs_is_valid() -> None:
    """A card that starts from it is accepted by check, and lacks nothing."""
    (example,) = _blocks("yaml")
    found = check(example.encode())
    assert found.problems == ()
    assert found.missing == ()
