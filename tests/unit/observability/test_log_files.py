"""Log files: bounded, whole lines, several writers, and readers that lose none of it."""

from __future__ import annotations

import stat
import threading

from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.adapters.log_file import LogFile, Tail, lines


@settings(max_examples=25)
@given(st.lists(st.integers(1, 60), max_size=80), st.integers(0, 3))
def test_what_is_kept_is_the_end_of_what_was_written(tmp_path_factory, lengths: list[int], keep: int) -> None:
    """In order and without a hole, and no file is larger than its bound and one line."""
    path = tmp_path_factory.mktemp("log") / "logs" / "x.jsonl"
    file = LogFile(path, max_bytes=256, keep=keep)
    written = [f"{number}:{'x' * length}" for number, length in enumerate(lengths)]
    for line in written:
        file.write(line)
    file.close()
    found = [line.rstrip("\n") for line in lines(path)]
    assert found == written[len(written) - len(found) :]
    assert all(p.stat().st_size < 256 + 64 for p in path.parent.glob("x.jsonl*"))
    assert len(list(path.parent.glob("x.jsonl.*"))) <= keep
    if sum(map(len, written)) + len(written) < 256:
        assert found == written


def test_writers_of_several_processes_share_a_file_and_a_reader_loses_none(tmp_path) -> None:
    """Each has the file open by itself; lines are whole, and a follower sees every one past the turns."""
    path = tmp_path / "x.jsonl"
    tail, seen = Tail(path), []

    def write(name: str) -> None:
        file = LogFile(path, max_bytes=2000, keep=100)
        for number in range(200):
            file.write(f"{name} {number} {'x' * 20}")
        file.close()

    writers = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = [line.split()[:2] for line in lines(path)]
    for name in "abc":
        assert [int(n) for who, n in found if who == name] == list(range(200))
    seen = tail.read()
    assert seen
    tail.close()
    assert (tmp_path / "x.jsonl.1").is_file()  # how many turns it took is the scheduler's choice


def test_a_follower_goes_on_in_the_next_file(tmp_path) -> None:
    """A file that is set aside is read to its end first; half a line waits for its other half."""
    path = tmp_path / "x.jsonl"
    file = LogFile(path, max_bytes=100, keep=2)
    file.write("before")
    tail = Tail(path)
    assert tail.read() == []
    seen = []
    for number in range(30):
        file.write(f"line {number:04d}")
        if number % 3 == 0:
            seen += tail.read()
    seen += tail.read()
    assert seen == [f"line {number:04d}" for number in range(30)]
    with path.open("a") as stream:
        stream.write("half")
        stream.flush()
        assert tail.read() == []
        stream.write(" and half\n")
    assert tail.read() == ["half and half"]
    tail.close()
    file.close()


def test_a_log_is_its_owners_alone_and_a_full_disk_stops_nothing(tmp_path, monkeypatch) -> None:
    """Modes 0600 and 0700; a write that fails is lost, and the next is tried again."""
    import os

    path = tmp_path / "logs" / "x.jsonl"
    file = LogFile(path, max_bytes=1000, keep=1)
    file.write("first")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    write = os.write

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    file.write("lost")
    monkeypatch.setattr(os, "write", write)
    file.write("second")
    path.unlink()
    file.write("third")
    assert list(lines(path)) == ["third\n"]
    file.close()
