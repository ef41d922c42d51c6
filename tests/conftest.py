"""What holds for every test."""

from __future__ import annotations

import signal

from hypothesis import settings

# A shell that runs the tests in the background lets them ignore Ctrl-C, and so every process that a test starts to
# interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says something about the machine only, and nothing about a promise.
settings.register_profile("unhurried", settings.default, deadline=None)
settings.load_profile("unhurried")
