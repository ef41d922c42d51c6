"""How what preflight saw is judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyctl.errors import UnsupportedError
from policyctl.serving import checks
from policyctl.serving.checks import MIB, Check, Status
from policyctl.serving.preflight import preflight

LDD = """\
\tlinux-vdso.so.1 (0x00007ffd)
\tlibb64.so.0d => not found
\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f3c77319000)
\tlibpython3.11.so.1.0 => not found
"""
OLD_GLIBC = "perf_analyzer: /lib/libc.so.6: version `GLIBC_2.38' not found (required by ./perf_analyzer)\n"
BUNDLED = ("libb64-98cb6333.so.0d", "libcudart-09529672.so.12.6.77", "libz-00000000.so.2")


def test_what_the_loader_does_not_find_is_read_from_ldd() -> None:
    """Missing libraries and missing versions are named, each once; found ones are not."""
    assert checks.unresolved(LDD + OLD_GLIBC + OLD_GLIBC) == ("libb64.so.0d", "libpython3.11.so.1.0", "GLIBC_2.38")
    assert checks.unresolved("\tlibc.so.6 => /lib/libc.so.6 (0x1)\n") == ()


def test_a_stub_without_libpython_gets_the_package_to_install() -> None:
    """The fix names Debian's package, and where this Python has no library."""
    check = checks.stub_libraries(LDD, libdir="/opt/python/lib")
    assert check.status is Status.FAILED
    assert "apt install libpython3.11" in check.fix
    assert "/opt/python/lib" in check.fix


def test_a_stub_that_lacks_something_else_is_not_blamed_on_python() -> None:
    """A missing library of the wheel is mended by installing it again."""
    check = checks.stub_libraries("\tlibcudart.so.12 => not found\n", libdir="")
    assert check.status is Status.FAILED
    assert "libpython" not in check.fix
    assert "nvidia-pytriton" in check.fix


def test_without_ldd_nothing_is_claimed() -> None:
    """What could not be looked at is a warning: neither fine nor a failure."""
    assert checks.libraries("server libraries", None, fix="x").status is Status.WARNING


@pytest.mark.parametrize(
    ("soname", "found"),
    [
        ("libb64.so.0d", "libb64-98cb6333.so.0d"),
        ("libcudart.so.12", "libcudart-09529672.so.12.6.77"),
        ("libz.so.1", None),
        ("lib.64.so.0d", None),
        ("libcudart.so.1", None),
    ],
)
def test_a_library_is_found_under_its_hashed_name(soname: str, found: str | None) -> None:
    """A wheel's hash in the name does not hide a library, and another version does not pass for it."""
    assert checks.bundled_library(soname, BUNDLED) == found


def test_perf_analyzer_is_fine_with_what_the_wheel_brings() -> None:
    """Libraries that the wheel has under hashed names are not missing; all others are."""
    lacking = "\tlibb64.so.0d => not found\n\tlibcudart.so.12 => not found\n"
    assert checks.perf_analyzer(Path("/bin/pa"), lacking, BUNDLED).status is Status.OK
    too_new = checks.perf_analyzer(Path("/bin/pa"), lacking + OLD_GLIBC, BUNDLED)
    assert too_new.status is Status.WARNING
    assert "GLIBC_2.38" in too_new.detail
    assert checks.perf_analyzer(None, None, BUNDLED).status is Status.WARNING


@pytest.mark.parametrize(
    ("version", "status"),
    [("2.34", Status.FAILED), ("2.35", Status.OK), ("2.36", Status.OK), ("3.0", Status.OK), ("", Status.FAILED)],
)
def test_glibc_has_to_be_what_the_wheel_was_built_against(version: str, status: Status) -> None:
    """Older ones, and other C libraries, are refused."""
    assert checks.glibc(version).status is status


@pytest.mark.parametrize(
    ("version", "status"),
    [(None, Status.FAILED), ("1.26.4", Status.OK), ("2.0.0", Status.FAILED), ("10.1", Status.FAILED)],
)
def test_numpy_has_to_be_below_2(version: str | None, status: Status) -> None:
    """The stub of Triton 2.51 was built against numpy 1."""
    assert checks.numpy(version).status is status


def test_a_taken_port_names_its_holder() -> None:
    """Who holds it stands in the detail; where that is unknown, it says so."""
    numbers = {"--http-port": 8000, "--grpc-port": 8001, "--metrics-port": 8002}
    http, grpc, metrics = checks.ports(numbers, host="127.0.0.1", holders={8000: "python3 (pid 7)", 8001: ""})
    assert (http.status, http.detail) == (Status.FAILED, "held on 127.0.0.1 by python3 (pid 7)")
    assert "an unknown process" in grpc.detail
    assert (metrics.status, metrics.detail) == (Status.OK, "free on 127.0.0.1")


def test_ports_that_one_process_holds_are_one_sentence() -> None:
    """Each is named once, who holds them once, and the options that choose others."""
    numbers = {"--http-port": 8000, "--grpc-port": 8001, "--metrics-port": 8002}
    with pytest.raises(UnsupportedError) as refused:
        checks.require(checks.ports(numbers, host="::1", holders=dict.fromkeys((8000, 8001), "tritonserver (pid 7)")))
    assert refused.value.problem.endswith("here: port 8000, port 8001: held on ::1 by tritonserver (pid 7)")
    assert refused.value.remedy == (
        "Stop what holds it, or choose others: policyctl serve --http-port N --grpc-port N (0 takes a free one)."
    )


@pytest.mark.parametrize(
    ("free_mib", "disk", "memory"),
    [
        (15, Status.WARNING, Status.FAILED),
        (16, Status.WARNING, Status.WARNING),
        (63, Status.WARNING, Status.WARNING),
        (64, Status.WARNING, Status.OK),
        (1023, Status.WARNING, Status.OK),
        (1024, Status.OK, Status.OK),
    ],
)
def test_room_is_judged_at_its_limits(free_mib: int, disk: Status, memory: Status) -> None:
    """Too little memory fails, little warns; a full disk only warns, for what is served serves on."""
    assert checks.disk(Path("/r"), free_bytes=free_mib * MIB, writable=True).status is disk
    assert checks.shared_memory(free_bytes=free_mib * MIB, writable=True).status is memory


def test_room_that_cannot_be_written_is_no_room() -> None:
    """Permissions are looked at before bytes."""
    assert checks.disk(Path("/r"), free_bytes=1 << 40, writable=False).status is Status.FAILED
    assert checks.shared_memory(free_bytes=1 << 40, writable=False).status is Status.FAILED


def test_one_missing_runtime_warns_and_none_at_all_fails() -> None:
    """A server with ONNX Runtime alone is of use; one without any runtime is not."""
    some = checks.runtimes([("onnxruntime", "1.32.0"), ("torch", None)])
    assert [check.status for check in some] == [Status.OK, Status.WARNING]
    assert "policyctl[export]" in some[1].fix
    none = checks.runtimes([("onnxruntime", None), ("torch", None)])
    assert [check.status for check in none] == [Status.FAILED, Status.WARNING]


def test_a_core_install_is_advised_one_extra_for_the_server() -> None:
    """Server and runtimes come with one extra; torch, which is large, is not asked for."""
    found = checks.runtimes([("openvino", None), ("onnxruntime", None), ("torch", None)])
    with pytest.raises(UnsupportedError) as caught:
        checks.require((Check("tritonserver", Status.FAILED, "not installed", checks.INSTALL_SERVER), *found))
    assert caught.value.remedy == "Install the server: pip install 'policyctl[serve]'"


def test_the_cpu_is_told_by_what_matters() -> None:
    """Vector extensions are named in a fixed order; other flags are left out."""
    assert checks.cpu(2, {"sse", "avx512_bf16", "avx2"}).detail == "2 usable, avx2, avx512_bf16"
    assert "no vector extension" in checks.cpu(1, set()).detail


def test_requiring_names_every_failure_and_every_fix_once() -> None:
    """One refusal names all that has to be mended; warnings do not stop anything."""
    seen = (
        Check("a", Status.FAILED, "broken", "mend it"),
        Check("b", Status.WARNING, "odd", "never mind"),
        Check("c", Status.FAILED, "gone", "mend it"),
    )
    with pytest.raises(UnsupportedError) as caught:
        checks.require(seen)
    assert "a: broken; c: gone" in caught.value.problem
    assert caught.value.remedy == "mend it"
    checks.require(seen[1:2])


def test_without_bash_no_python_based_backend_starts() -> None:
    """A failure where such a backend serves, a warning where the native one does; the words say what would happen."""
    assert checks.bash("/bin/bash", needed=True).status is Status.OK
    failed, warned = (checks.bash(None, needed=needed) for needed in (True, False))
    assert (failed.status, warned.status) == (Status.FAILED, Status.WARNING)
    assert "every load hangs" in failed.detail


def test_bash_is_looked_for_where_the_server_will(monkeypatch, tmp_path) -> None:
    """On the server's PATH: one that is elsewhere is not found by Triton."""
    (tmp_path / "ldd").symlink_to("/usr/bin/ldd")
    monkeypatch.setenv("PATH", str(tmp_path))
    found = {check.name: check.status for check in preflight(repository=tmp_path, ports={})}
    assert found["bash"] is not Status.OK
