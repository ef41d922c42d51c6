"""From schema 1 to 2 and back: nothing is lost, whatever the card says."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
from card_examples import HOSTILE, LOOSE, PUBLISHED, values
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.card.document import dump, parse
from policyctl.card.migration import downgrade, newest, upgrade
from policyctl.card.problems import check_schema
from policyctl.card.rewriting import comments, extended, migrate
from policyctl.errors import UsageError

_NAMES = sorted(
    LOOSE.keys()
    | PUBLISHED.keys() - {"schema_version"}
    | {"schema_1", "schema_2", "kind", "file", "algorithm", "formats", "normalizer", "x"}
)
_inner = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(("a", "", *HOSTILE)),
    lambda each: st.lists(each, max_size=2) | st.dictionaries(st.sampled_from(_NAMES), each, max_size=4),
    max_leaves=10,
)
_strange = st.dictionaries(st.sampled_from(_NAMES), _inner, max_size=6)
loose = _strange | st.builds(lambda changed: {**LOOSE, **changed}, _strange)
"""Cards of schema 1: what export wrote, with anything changed or added, in our names too."""
strict = _strange.map(lambda d: {"schema_version": 2, **d}) | st.builds(
    lambda changed, left: {k: v for k, v in {**PUBLISHED, **changed}.items() if k not in left},
    _strange,
    st.sets(st.sampled_from(sorted(PUBLISHED.keys() - {"schema_version"})), max_size=6),
)


@settings(deadline=None, max_examples=150)
@given(loose)
def test_a_loose_card_comes_back_as_it_was(old) -> None:
    """To schema 2 and back gives the very card, also where its names are those that migration itself uses."""
    before = copy.deepcopy(old)
    assert downgrade(upgrade(old)) == before
    assert old == before


@settings(deadline=None, max_examples=150)
@given(strict)
def test_a_card_of_schema_2_comes_back_as_it_was(new) -> None:
    """To schema 1 and back gives the very card."""
    before = copy.deepcopy(new)
    assert upgrade(downgrade(new)) == before
    assert new == before


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(_NAMES) | st.text("ab", max_size=2), values, max_size=5))
def test_whatever_a_loose_card_says_it_can_be_read(old) -> None:
    """A release with any card of schema 1 can be shown: what fits no place is kept apart, never refused."""
    read = newest(parse(dump(old).encode()))
    card, _ = check_schema(read)
    assert card is not None


def test_what_is_known_moves_to_its_place() -> None:
    """What export wrote stands where schema 2 has it, and what people added is kept."""
    new = upgrade({**LOOSE, "service_level": {"p99_ms": 5}, "mine": {"a": 1}})
    card, problems = check_schema(parse(dump(new).encode()))
    assert problems == ()
    assert card is not None
    assert card.training is not None
    assert card.training.algorithm == "PPO"
    assert card.provenance is not None
    assert card.provenance.source is not None
    assert card.provenance.source.file == "a.zip"
    assert card.contract is not None
    assert card.contract.outputs == ["action: float32[1]"]
    assert card.parity is not None
    assert card.parity.formats["onnx"].rows == 288
    assert card.service_level is not None
    assert card.service_level.p99_ms == 5
    assert card.extensions == {"schema_1": {"schema": 1, "mine": {"a": 1}}}


def test_a_newer_card_is_refused() -> None:
    """Guessing what a later schema means is worse than saying so."""
    with pytest.raises(UsageError, match="schema_version 3, this policyctl reads up to 2"):
        newest(parse(b"schema_version: 3"))
    with pytest.raises(UsageError, match="reads up to 2"):
        migrate(b"schema_version: 3")


_comment = st.text(st.characters(codec="ascii", exclude_categories=("Cc", "Cs")), max_size=12).map(
    lambda text: ("# " + text).rstrip()
)


@st.composite
def commented(draw) -> str:
    """A card's text with comments on lines of their own and behind values."""
    data = draw(st.sampled_from([LOOSE, PUBLISHED, {**LOOSE, "mine": {"a": [1, {"b": "# no comment"}]}}]))
    lines = []
    for line in dump(data).splitlines():
        indent = " " * (len(line) - len(line.lstrip()))
        if draw(st.booleans()):
            lines.append(indent + draw(_comment))
        lines.append(f"{line}  {draw(_comment)}" if draw(st.booleans()) else line)
    return "\n".join([*lines, draw(_comment), ""])


@settings(deadline=None, max_examples=40)
@given(commented())
def test_no_comment_is_lost(text: str) -> None:
    """Whatever the place of a comment, it is in the migrated text, and the values are the migrated ones."""
    data = parse(text.encode()).data
    other = 1 if "schema_version" in data else 2
    migrated = migrate(text.encode(), to=other)
    assert parse(migrated.encode()).data == (downgrade(data) if other == 1 else upgrade(data))
    assert not Counter(comments(text)) - Counter(comments(migrated))
    back = migrate(migrated.encode(), to=3 - other)
    assert parse(back.encode()).data == data
    assert not Counter(comments(text)) - Counter(comments(back))


def test_a_comment_moves_with_its_value() -> None:
    """Behind a value it stays behind it, before a section before it."""
    text = "# mine\nsource:\n  kind: sb3  # an archive\n# limits\nservice_level:\n  p99_ms: 5 # tight\n"
    migrated = migrate(text.encode())
    assert "    kind: sb3  # an archive\n" in migrated or "    kind: sb3 # an archive\n" in migrated
    assert "# limits\nservice_level:\n  p99_ms: 5 # tight\n" in migrated
    assert migrated.startswith("# mine\n")


def test_a_card_of_the_asked_schema_stays_as_it_is() -> None:
    """Not a byte of it is changed."""
    text = "# a\nschema_version:   2\nname: 'x'\n"
    assert migrate(text.encode()) == text
    assert migrate(b"schema: 1 # b\n", to=1) == "schema: 1 # b\n"


@settings(deadline=None, max_examples=30)
@given(commented(), st.booleans())
def test_entries_are_added_without_touching_the_rest(text: str, again: bool) -> None:
    """New entries stand at the end of their lists; every other value and every comment stays."""
    entry = {"environment": "X-v0", "returns": {"mean": 1.5}}
    wanted = {"evaluation": [entry], "notes": [entry]} if again else {"evaluation": [entry]}
    before = parse(text.encode()).data
    after = extended(text.encode(), wanted)
    expected = {**before, **{k: [*before.get(k, []), *entries] for k, entries in wanted.items()}}
    assert parse(after.encode()).data == expected
    assert not Counter(comments(text)) - Counter(comments(after))
