"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# How long an example takes says something about the machine only, and nothing about a promise.
settings.register_profile("unhurried", settings.default, deadline=None)
settings.load_profile("unhurried")
