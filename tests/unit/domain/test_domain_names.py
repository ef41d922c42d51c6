"""Names: what may become a folder and a part of a URL."""

from __future__ import annotations

import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from policyctl.domain.names import (
    PRODUCTION,
    check_alias,
    check_model_name,
    check_release,
    served_name,
    split_served_name,
)
from policyctl.errors import UsageError

allowed = st.from_regex(r"[a-z0-9](?:[a-z0-9_-]{0,62}[a-z0-9])?", fullmatch=True)


@given(st.text(max_size=70) | allowed)
def test_an_allowed_name_is_a_plain_folder_name(name: str) -> None:
    """Whatever passes holds no slash, dot, capital, blank or unicode, and neither hides nor looks like an option."""
    try:
        assert check_model_name(name) == name
    except UsageError:
        return
    assert 1 <= len(name) <= 64
    assert set(name) <= set(string.ascii_lowercase + string.digits + "_-")
    assert name[0].isalnum()
    assert name[-1].isalnum()


@given(allowed)
def test_the_whole_alphabet_is_allowed(name: str) -> None:
    """Every name that the remedy describes is accepted."""
    assert check_model_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "a.b", "A", "-a", "a-", "_a", "a ", "a\n", "\n", "a\x00", "é", "a" * 65, *"\uff41\u0663"],
)
def test_a_name_outside_the_alphabet_is_refused(name: str) -> None:
    """The message quotes the name, the remedy says what is allowed."""
    for check, kind in ((check_model_name, "model"), (check_alias, "alias")):
        with pytest.raises(UsageError) as refusal:
            check(name)
        assert f"{kind} name {name!r}" in refusal.value.problem
        assert "a-z" in refusal.value.remedy


@pytest.mark.parametrize("name", ["candidate", "latest"])
def test_what_has_a_meaning_of_its_own_is_nobodys_alias(name: str) -> None:
    """The name under which releases are certified cannot be taken, nor what selects the highest."""
    with pytest.raises(UsageError, match="reserved"):
        check_alias(name)


@given(allowed, allowed | st.just(PRODUCTION))
def test_a_served_name_splits_into_its_model_and_alias(model: str, alias: str) -> None:
    """`split_served_name` is the inverse of `served_name`, so no two pairs share a Triton model."""
    assert split_served_name(served_name(model, alias)) == (model, alias)


@given(allowed, allowed, allowed, allowed)
def test_different_aliases_never_share_a_served_name(model: str, alias: str, other: str, second: str) -> None:
    """Served names are injective."""
    assume((model, alias) != (other, second))
    assert served_name(model, alias) != served_name(other, second)


@pytest.mark.parametrize(
    "text", ["0.0.0", "1.0.0", "1.2.3-rc.1", "1.0.0-alpha+001", "1.0.0+20130313144700", "10.20.30", "1.0.0--1"]
)
def test_a_semantic_version_is_kept_as_it_is(text: str) -> None:
    """What semver.org allows, in full, is returned unchanged."""
    assert check_release(text) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "1", "1.0", "v1.0.0", "01.0.0", "1.00.0", "1.0.0-01", "1.0.0-", "1.0.0+", "1.0.0.0", "latest"),
        *("1.0.0 ", " 1.0.0", "1.0.0\n", "1.0.0-rc..1", "-1.0.0", "1.0.0-ü", "../1.0.0", "1.0.0/.."),
        *("1.1\u0660.0", "1.0.0-\u0663a", "1.0.0-" + "a" * 300, "9" * 5000 + ".0.0"),
    ],
    ids=lambda t: ascii(t)[:24],
)
def test_what_is_no_semantic_version_is_refused(text: str) -> None:
    """No lenient reading: no `v`, no blanks, no digits of other scripts, nothing longer than a folder name."""
    with pytest.raises(UsageError, match="release"):
        check_release(text)
