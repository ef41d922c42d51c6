"""Numbers of releases: steps, ranges and selectors, by the book."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from policyctl.domain.names import check_alias, check_movable_alias, check_release, is_pin, pin_name
from policyctl.domain.versions import Bump, bump, newest, parse, parse_range, precedence, promised, select
from policyctl.errors import UsageError

small = st.integers(0, 3)
cores = st.builds(lambda *n: ".".join(map(str, n)), small, small, small)
tails = st.sampled_from(["", "", "", "-rc.1", "-rc.2", "-alpha", "-1", "-rc.1.x"])
numbers = st.builds(str.__add__, cores, tails)
built = st.builds(str.__add__, numbers, st.sampled_from(["", "+a", "+20260101"]))
operators = st.sampled_from(["^", "~"])
partial = st.one_of(st.builds(str, small), st.builds(lambda a, b: f"{a}.{b}", small, small), numbers)
ranges = st.one_of(st.builds(str.__add__, operators, partial), numbers)
bumps = st.sampled_from(Bump)

# The order of https://semver.org, 11, and of its own example.
ORDER = (
    *("0.1.0", "0.9.9", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2"),
    *("1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.0.1", "1.2.0", "1.10.0", "2.0.0-0", "2.0.0"),
)


def test_releases_stand_in_the_order_of_the_book() -> None:
    """Numbers are compared as numbers, and a pre-release comes before its release."""
    shuffled = sorted(ORDER, key=len)
    assert sorted(shuffled, key=parse) == list(ORDER)
    assert sorted(shuffled, key=precedence) == list(ORDER)


@given(built, built)
def test_the_quick_order_is_that_of_the_library(one: str, other: str) -> None:
    """Also that two numbers are equal which differ in build metadata alone."""
    assert (precedence(one) > precedence(other)) == (parse(one) > parse(other))
    assert (precedence(one) == precedence(other)) == (parse(one) == parse(other))


STEPS = [
    ("1.2.3", "1.2.4", Bump.PATCH),
    ("1.2.3", "1.3.0", Bump.MINOR),
    ("1.2.3", "2.0.0", Bump.MAJOR),
    ("0.2.3", "0.2.4", Bump.MINOR),
    ("0.2.3", "0.3.0", Bump.MAJOR),
    ("0.2.3", "1.0.0", Bump.MAJOR),
    ("1.2.3", "1.3.0-rc.1", Bump.MINOR),
    ("1.2.3", "2.0.0-rc.1", Bump.MAJOR),
]


@pytest.mark.parametrize(("earlier", "later", "says"), STEPS)
def test_a_step_promises_what_its_number_says(earlier: str, later: str, says: Bump) -> None:
    """Before 1.0.0 the second number promises what the first does later."""
    assert promised(parse(earlier), parse(later)) is says


@given(cores, bumps)
def test_a_bump_comes_after_and_promises_what_was_asked_for(number: str, need: Bump) -> None:
    """`bump` gives a later number whose step says at least as much."""
    after = bump(parse(number), need)
    assert after > parse(number)
    assert promised(parse(number), after) >= need


@given(cores, numbers, bumps)
def test_no_lower_number_promises_as_much(number: str, other: str, need: Bump) -> None:
    """`bump` gives the lowest release that does."""
    comes_after = parse(other) > parse(number) and not parse(other).prerelease
    if comes_after and promised(parse(number), parse(other)) >= need:
        assert parse(other) >= bump(parse(number), need)


MATCHES = {
    # As npm and Cargo read them.
    "1.2.3": ("1.2.3 1.2.3+gpu", "1.2.2 1.2.4 1.2.3-rc.1"),
    "1.2.3+gpu": ("1.2.3+gpu", "1.2.3 1.2.3+cpu"),
    "1.3.0-rc.1": ("1.3.0-rc.1", "1.3.0 1.3.0-rc.2"),
    "^1.2": ("1.2.0 1.2.9 1.9.0", "1.1.9 2.0.0 1.3.0-rc.1 2.0.0-rc.1"),
    "^1.2.3": ("1.2.3 1.3.0", "1.2.2 2.0.0"),
    "^1": ("1.0.0 1.9.9", "0.9.9 2.0.0"),
    "^0": ("0.0.1 0.9.9", "1.0.0"),
    "^0.2.3": ("0.2.3 0.2.9", "0.2.2 0.3.0"),
    "^0.0.3": ("0.0.3", "0.0.2 0.0.4"),
    "^0.0": ("0.0.0 0.0.9", "0.1.0"),
    "~1.2.0": ("1.2.0 1.2.9", "1.3.0 1.2.1-rc.1"),
    "~1.2.3": ("1.2.3 1.2.9", "1.2.2 1.3.0"),
    "~1.2": ("1.2.0", "1.3.0"),
    "~1": ("1.0.0 1.9.9", "2.0.0"),
    "^1.3.0-rc.1": ("1.3.0-rc.1 1.3.0-rc.2 1.3.0 1.4.0", "1.3.0-alpha 1.4.0-rc.1 2.0.0"),
}


@pytest.mark.parametrize("text", MATCHES)
def test_a_range_matches_what_package_managers_say_it_does(text: str) -> None:
    """Each range takes the first and refuses the second, pre-releases only where it asks for them."""
    takes, refuses = (side.split() for side in MATCHES[text])
    wanted = parse_range(text)
    assert [r for r in takes + refuses if wanted.matches(r)] == takes
    assert not wanted.matches("not a number")


@pytest.mark.parametrize(
    "text",
    [
        *("", "^", "~", "1", "1.2", "v1.2.3", ">=1.2", "1.x", "*", "^1.2.3+gpu", "^01", "^1.2.3.4", "latest"),
        *("production", "^ 1", "^1\n", "^\u0661", "^" + "9" * 5000, "^1.2.3-", "~~1"),
    ],
    ids=lambda t: ascii(t)[:20],
)
def test_what_is_no_range_is_refused(text: str) -> None:
    """The message quotes it, the remedy shows the three forms."""
    with pytest.raises(UsageError) as refusal:
        parse_range(text)
    assert ascii(text)[1:4] in ascii(refusal.value.problem)
    assert all(form in refusal.value.remedy for form in ("1.2.3", "^1.2", "~1.2.0"))


@given(numbers)
def test_every_range_of_a_release_takes_that_release(number: str) -> None:
    """``R``, ``^R`` and ``~R`` match R."""
    assert all(parse_range(operator + number).matches(number) for operator in ("", "^", "~"))


@given(numbers, numbers)
def test_whatever_a_caret_takes_is_reached_without_a_break(one: str, other: str) -> None:
    """From a release to what its caret takes, the step promises no more than MINOR."""
    if parse_range("^" + one).matches(other) and one != other:
        assert promised(parse(one), parse(other)) <= Bump.MINOR


@given(numbers, numbers)
def test_a_tilde_takes_no_more_than_its_caret(one: str, other: str) -> None:
    """Of a full number from 0.1.0 on, patches are among what is compatible."""
    assume(one.split("-", maxsplit=1)[0].split(".")[:2] != ["0", "0"])
    assert parse_range("^" + one).matches(other) or not parse_range("~" + one).matches(other)


published = st.lists(built, unique_by=lambda r: r.partition("+")[0], max_size=8)
names = st.sampled_from(["production", "staging", "v1-2-0"])


@given(published, st.one_of(ranges, st.just("latest"), names), st.randoms())
def test_a_selector_picks_one_of_the_published_whatever_their_order(have: list[str], text: str, random) -> None:
    """The answer is published, or none, and does not depend on the order in which they were."""
    aliases = {"staging": have[0]} if have else {}
    found = select(text, have, aliases)
    assert found is None or found in have
    shuffled = list(have)
    random.shuffle(shuffled)
    assert select(text, shuffled, aliases) == found


@given(published, ranges)
def test_a_range_selects_the_highest_that_it_matches(have: list[str], text: str) -> None:
    """Nothing that matches is higher, and where nothing is selected nothing matches."""
    wanted, found = parse_range(text), select(text, have, {})
    matching = [r for r in have if wanted.matches(r)]
    assert (found in matching) if matching else (found is None)
    assert all(parse(found or r) >= parse(r) for r in matching)


@given(published, built, ranges)
def test_another_release_that_does_not_match_changes_nothing(have: list[str], more: str, text: str) -> None:
    """Publishing elsewhere moves no selector."""
    assume(not parse_range(text).matches(more))
    assert select(text, [*have, more], {}) == select(text, have, {})


@given(published)
def test_latest_is_the_highest_that_is_no_pre_release(have: list[str]) -> None:
    """Where only pre-releases are published, nothing is the latest."""
    stable = [r for r in have if "-" not in r.partition("+")[0]]
    found = select("latest", have, {})
    assert found == newest(have)
    assert (found is None) == (not stable)
    assert all(parse(found or "") >= parse(r) for r in stable)


@given(published)
def test_every_release_selects_itself(have: list[str]) -> None:
    """Its own number, in full, always means it."""
    assert all(select(release, have, {}) == release for release in have)


def test_an_alias_selects_what_it_names_and_a_number_goes_before_it() -> None:
    """A pin has a number for a name, and means the release of that number all the same."""
    have, named = ["1.0.0", "1.1.0+gpu", "2.0.0-rc.1"], {"production": "1.0.0", "1.0.0": "1.0.0", "old": "1.0.0"}
    assert select("production", have, named) == "1.0.0"
    assert select("1.1.0", have, named) == "1.1.0+gpu"
    assert select("2.0.0-rc.1", have, named) == "2.0.0-rc.1"
    assert [select(t, have, named) for t in ("staging", "1.1.0+cpu", "^2", "3.0.0", "")] == [None] * 5


@given(built)
def test_a_pin_can_never_be_taken_for_another_alias(release: str) -> None:
    """Its name is an alias that no promotion can move, and no other alias has a dot."""
    name = pin_name(release)
    assert is_pin(name)
    assert check_alias(name) == name
    assert check_release(name) == name
    with pytest.raises(UsageError, match="never moves"):
        check_movable_alias(name)


@pytest.mark.parametrize("name", ["production", "v1-2-0", "1", "1-2-0", "latest", "1.2", "1.0.0+gpu", "v1.0.0", ""])
def test_what_is_no_number_is_no_pin(name: str) -> None:
    """Nor is a number with build metadata, which a name leaves out."""
    assert not is_pin(name)
