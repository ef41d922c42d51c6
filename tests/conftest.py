"""What holds for every test."""

from __future__ import annotations

import contextlib
import gc
import os
import runpy
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from policyctl.adapters.files import remove_tree

_CASES = Path(__file__).resolve().parents[2] / "shared" / "cases"

# Each worker has one core. The threads of a policy would spin while they wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Servers keep no process that other tests' commands would start from.
os.environ["XDG_RUNTIME_DIR"] = "/nonexistent"

# A shell's `&` lets the tests ignore Ctrl-C, and nohup a hang-up; so would every process that a test starts to end so.
for _number, _handler in {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}.items():
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

# How long an example takes, or the making of it, says something about the machine only, and nothing about a promise.
settings.register_profile("unhurried", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


_MEMORY = Path("/dev/shm")
_ROOM = 4 << 30
"""Bytes; the files of all tests together take a tenth of that."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Keep the tests' files in memory where there is room: a disk takes milliseconds to remove each of their folders.

    What is about a disk that is full, or read-only, makes a file system for that.
    """
    chosen = config.option.basetemp is not None or hasattr(config, "workerinput")
    if not chosen and _MEMORY.is_mount() and shutil.disk_usage(_MEMORY).free > _ROOM:
        folder = tempfile.mkdtemp(prefix="tests-of-policyctl-", dir=_MEMORY)
        config.option.basetemp = str(Path(folder) / "files")
        config.add_cleanup(lambda: remove_tree(Path(folder)))


def pytest_collection_finish() -> None:
    """Thousands of tests and their modules stay to the end: no collection of garbage walks over them again."""
    gc.collect()
    gc.freeze()
    # Tests make many objects and few cycles: collections after 700 objects took a twentieth of the time.
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture
def case(tmp_path: Path) -> Callable[[str], Path]:
    """Copy one case to a folder of the test, and run its `make.py` there if it has one."""

    def copy(name: str) -> Path:
        if not _CASES.is_dir():
            pytest.skip("the folder of cases that failed once is absent")
        folder = tmp_path / name
        shutil.copytree(_CASES / name, folder, copy_function=shutil.copyfile)
        folder.chmod(0o755)
        if (folder / "make.py").exists():
            # In this process: another one would import torch again for a file of a few lines.
            with contextlib.chdir(folder):
                runpy.run_path("make.py", run_name="__main__")
        return folder

    return copy
