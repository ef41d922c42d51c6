"""Being asked to stop: the request is never lost, holds nothing up, and is followed in bounded time."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

from policyctl.services.logs.server_log import serving
from policyctl.services.supervise.ending import ends_in_time
from policyctl.signals import on_signals, stop_on_signal

HAMMERED = """
import subprocess, sys, threading
from policyctl.signals import stop_on_signal
stop, hammer = threading.Event(), '''
import os, random, time
while os.getppid() == {0}:
    time.sleep(0.0002 + random.random() * 0.0005)
    os.kill({0}, {1})
'''
import os, signal
child = subprocess.Popen([sys.executable, "-c", hammer.format(os.getpid(), int(signal.SIGTERM))])
with stop_on_signal(stop):
    for _ in range(1500):
        stop.clear()
        while not stop.wait(0.0001):
            pass
    child.kill()
    child.wait()
"""


def test_a_signal_in_the_middle_of_a_wait_is_a_request_like_any_other() -> None:
    """The main thread holds the lock of its event for part of each wait; a handler that wants it waits for ever."""
    subprocess.run([sys.executable, "-c", HAMMERED], check=True, timeout=300)


def test_a_request_to_stop_is_heard_while_the_main_thread_runs_no_python() -> None:
    """As in the middle of a library's call, which a signal does not end."""
    stop, heard = threading.Event(), list[float]()
    threading.Thread(target=lambda: (stop.wait(), heard.append(time.monotonic()))).start()
    with stop_on_signal(stop):
        threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGTERM)).start()
        hashlib.pbkdf2_hmac("sha256", b"a", b"b", 2_000_000)  # a second or more
        ended = time.monotonic()
        _wait_for(lambda: heard)
    assert heard[0] < ended


def test_a_signal_that_the_inner_block_does_not_name_goes_to_the_outer_one() -> None:
    """`policyctl serve` listens for a hangup inside of what it listens for to stop; afterwards all is as it was."""
    seen: list[str] = []
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)
    with on_signals({signal.SIGTERM: lambda: seen.append("outer")}):
        with on_signals({signal.SIGHUP: lambda: seen.append("inner")}):
            for number, expected in ((signal.SIGTERM, ["outer"]), (signal.SIGHUP, ["outer", "inner"])):
                os.kill(os.getpid(), number)
                _wait_for(lambda expected=expected: seen == expected)
        os.kill(os.getpid(), signal.SIGTERM)
        _wait_for(lambda: seen == ["outer", "inner", "outer"])
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)) == before


def test_what_the_main_thread_waits_for_is_ended_once_it_was_asked_to_stop(tmp_path) -> None:
    """Not before, and not where it ends by itself."""
    ended, stop = threading.Event(), threading.Event()
    with ends_in_time(stop, ended.set, folder=tmp_path):
        assert not ended.wait(0.1)
        stop.set()
        assert ended.wait(300)
    ended.clear()
    with ends_in_time(threading.Event(), ended.set, folder=tmp_path):
        pass
    assert not ended.is_set()
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_does_not_end_is_ended_and_says_where_it_waited(tmp_path) -> None:
    """The last resort: exit code 1, and the stacks of all threads in a file of the logs."""
    code = """
import pathlib, sys, threading, time
from policyctl.services.supervise import ending
ending.GRACE_S = ending.LAST_RESORT_S = 0.1
stop = threading.Event()
with ending.ends_in_time(stop, lambda: None, folder=pathlib.Path(sys.argv[1])):
    stop.set()
    time.sleep(3600)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "logs"], check=False, timeout=300)
    assert done.returncode == 1
    said = (tmp_path / "logs" / "stuck.txt").read_text()
    assert "did not end" in said
    assert 'File "<string>", line 8 in <module>' in said


def test_the_end_of_the_interpreter_is_bounded_and_nothing_before_it() -> None:
    """A thread of a library that never ends keeps no process; a program that goes on has no alarm."""
    code = """
import signal, threading, time
from policyctl.services.supervise.ending import bound_end
bound_end(1)
threading.Thread(target=time.sleep, args=(3600,)).start()
time.sleep(0.1)
assert signal.alarm(0) == 0
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=300).returncode == -signal.SIGALRM


def test_words_that_nobody_reads_hold_up_no_server(world) -> None:
    """A terminal that was stopped takes no line; serving goes on, ends when asked, and says how many are missing."""
    read, said = threading.Event(), list[str]()

    def slow(words: str) -> None:
        read.wait(300)
        said.append(words)

    world.control.say = slow
    began = time.monotonic()
    with serving(world.control) as control:
        for number in range(1500):
            control.say(f"line {number}")
        assert time.monotonic() - began < 60
        read.set()
        _wait_for(lambda: len(said) >= 1000)
        control.say("the last")
    assert said[-1] == "the last"
    assert any(words.endswith("lines are missing here: nobody read in time.") for words in said)


def test_a_pipe_whose_reader_has_gone_ends_no_server() -> None:
    """`policyctl serve 2>&1 | head -1` goes on serving."""
    code = "from policyctl.services.logs.server_log import to_stderr; to_stderr('a'); to_stderr('b'); print('here')"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stderr.close()
    assert process.communicate(timeout=300)[0] == b"here\n"


def _wait_for(condition, timeout_s: float = 300) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
