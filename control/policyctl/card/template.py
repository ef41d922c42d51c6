"""A card to fill in: what is known is there, what is not stands as a comment that says what belongs there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from policyctl.card.schema import SCHEMA_VERSION, Card
from policyctl.documents.yaml_text import dump

_HEAD: Final = """\
# Model card. Lines with two # are examples: replace them by what is true, or leave them.
# policyctl card check DIR says what is wrong; policyctl publish refuses a card that is.
"""

_SECTIONS: Final[Mapping[str, tuple[str, str]]] = {
    "name": ("What people call it.", "name: Walker on flat ground"),
    "summary": ("One or two sentences: what it does, where, and how well.", "summary: Walks at 1.2 m/s on dry tiles."),
    "contract": ("From contract.json; not to be edited.", ""),
    "training": (
        "How it came about. Also: environment (id, options, url), steps, environments, seed, commit, hyperparameters.",
        "training:\n  algorithm: PPO\n  framework: {name: stable-baselines3, version: 2.9.2}\n"
        "  environment: {id: BipedalWalker-v3}\n  steps: 5000000\n  environments: 16\n  seed: 0\n"
        "  commit: 0123abc  # git rev-parse HEAD",
    ),
    "evaluation": (
        "What it earned. Not typed: policyctl evaluate MODEL --env ENV --keep, then card cite DIR MODEL RELEASE.",
        "",
    ),
    "behaviour": ("What its actions look like on the golden set (drawn observations). Not typed.", ""),
    "performance": ("How fast it answers, by machine. Not typed: policyctl card cite DIR MODEL RELEASE.", ""),
    "parity": ("From parity.json; not to be edited.", ""),
    "limits_of_use": (
        "What it is for, what it is not for, what may go wrong.",
        "limits_of_use:\n  intended: [Walking on dry, level floors]\n  out_of_scope: [Stairs, Wet tiles]\n"
        "  risks: [Falls when pushed harder than 40 N]",
    ),
    "licence": ("An SPDX identifier or expression.", "licence: Apache-2.0"),
    "owners": ("Who answers for it.", "owners:\n  - name: Locomotion team\n    contact: locomotion@example.org"),
    "provenance": ("Where it comes from. Also: repository (a URL).", ""),
    "service_level": (
        "Limits that the gate service_level holds it to; policyctl docs gates.",
        "service_level:\n  p99_ms: 5\n  throughput_per_s: 6400",
    ),
    "extensions": ("Whatever else: kept and shown, not judged.", ""),
}


def render(data: Mapping[str, Any]) -> str:
    """A card with `data` and, for what it lacks, an example in comments.

    Law: `reading.parse` reads back `data`, with the schema's version.
    """
    parts = [f"{_HEAD}schema_version: {SCHEMA_VERSION}\n"]
    for name in Card.model_fields:
        if name not in _SECTIONS and name in data and name != "schema_version":
            parts.append(dump({name: data[name]}))
        elif name in _SECTIONS:
            words, example = _SECTIONS[name]
            if name in data:
                parts.append(f"# {words}\n{dump({name: data[name]})}")
            elif example:
                parts.append(f"# {words}\n" + "".join(f"## {line}\n" for line in example.splitlines()))
            elif name != "extensions":
                parts.append(f"# {name}: {words}\n")
    return "\n".join(parts)
