"""What holds for every test."""

from __future__ import annotations

import functools
import signal
from collections.abc import Iterator

import pytest
import typer.main
from hypothesis import settings

# A shell that runs the tests in the background lets them ignore Ctrl-C, and so every process that a test starts to
# interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says something about the machine only, and nothing about a promise.
settings.register_profile("unhurried", settings.default, deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(scope="session", autouse=True)
def _commands_are_built_once() -> Iterator[None]:
    """Typer makes all commands anew for each that is run, which takes longer than most of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))
        yield
