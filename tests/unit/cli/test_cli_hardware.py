"""`policyctl hardware`."""

from __future__ import annotations


def test_the_command_prints_the_same_facts_twice(run) -> None:
    """As a table and as JSON."""
    shown, document = run("hardware", "--no-runtimes"), run("hardware", "--no-runtimes", "--json").document
    assert (shown.code, shown.err) == (0, "")
    assert document["hardware"]["fingerprint"] in shown.out
    assert {"hardware", "recommendations", "runtimes"} == document.keys()
    settings = [each["setting"] for each in document["recommendations"]]
    assert all(setting.split()[0] in shown.out for setting in settings)
