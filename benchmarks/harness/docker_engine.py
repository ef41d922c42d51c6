"""A separate Docker engine for tests and benchmarks, with an image of this machine's Triton.

Nothing comes from a registry. This process moves into a new network namespace
before it starts `dockerd` with new folders and a new socket. So bridges,
firewall rules and published ports touch no other engine, and fixed ports are
free. The image is packed from what is installed here: this Python, what
policyctl imports, and the tritonserver of the wheel at the paths that NVIDIA's
image has. So it stands in for NVIDIA's image; its backends are Python-based.

`engine` raises `MissingError` with a reason where this machine cannot run one.
"""

from __future__ import annotations

import compileall
import contextlib
import ctypes
import importlib.metadata
import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from packaging.requirements import Requirement

from policyctl.serving.backend_directory import assemble
from policyctl.serving.command import environment
from policyctl.serving.container_request import BACKENDS
from policyctl.serving.locate import TritonInstall, locate

ROOT: Final = Path(__file__).resolve().parents[2]
SERVER: Final = Path("/opt/tritonserver")
ENVIRONMENT: Final = Path("/opt/policyctl")
NEEDED: Final = ("dockerd", "containerd", "runc", "iptables", "docker", "ip")
EXTRAS: Final = frozenset({"sign", "api"})
OF_A_NODE: Final = frozenset({"serve", "sign", "store"})
"""What containers/node.Dockerfile installs."""
RUNTIMES: Final = ("onnxruntime",)
USER: Final = 1000
_CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
"""As Python's own image has them; without, no store is asked."""
_CLONE_NEWNET: Final = 0x40000000
_UP_S: Final = 60.0
_LOOK_S: Final = 0.05
_LEFT_OUT: Final = re.compile(r"(^|/)(__pycache__|test|tests|idlelib|ensurepip|site-packages|config-3[^/]*)(/|$)|\.a$")
_FOUND: Final = re.compile(r"(?:=>\s+|^\s+)(/\S+) \(0x", re.MULTILINE)


class MissingError(Exception):
    """What this machine lacks, as a sentence."""


class Engine:
    """One `dockerd`, started and stopped any number of times.

    Args:
        folder: Its data, its socket and its log.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = f"unix://{folder}/docker.sock"
        self.log = folder / "dockerd.log"
        self.away_s = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    def restart(self) -> None:
        """Stop and start it; `away_s` says how long it was away."""
        begun = time.monotonic()
        self.stop()
        self.start()
        self.away_s = time.monotonic() - begun

    def start(self) -> None:
        """Start it, and return once it answers.

        Raises:
            MissingError: It does not come up; with its last words.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        arguments = ["--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec"]
        arguments += ["--host", self.host, "--pidfile", f"{self.folder}/pid"]
        # runc may not raise the limits that it has by default.
        arguments += ["--default-ulimit", "nofile=1024:1024", "--default-ulimit", "nproc=4096:4096"]
        with self.log.open("ab") as stream:
            # Else `docker exec` wants that folder, which belongs to a user's session and may not be there.
            variables = {name: value for name, value in os.environ.items() if name != "XDG_RUNTIME_DIR"}
            self._process = subprocess.Popen(["dockerd", *arguments], env=variables, stdout=stream, stderr=stream)
        deadline = time.monotonic() + _UP_S
        while self.docker("version", check=False).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise MissingError(f"dockerd does not start here: {self.log.read_text(errors='replace')[-600:]}")
            time.sleep(_LOOK_S)

    def stop(self) -> None:
        """Stop it and every container; nothing happens where it does not run."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def docker(
        self, *arguments: str, check: bool = True, stdin: IO[bytes] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `docker` on it; with `check`, a refusal is an error that shows its words."""
        done = subprocess.run(
            ["docker", *arguments],
            env={**os.environ, "DOCKER_HOST": self.host},
            stdin=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"docker {' '.join(arguments)}: {done.stderr}")
        return done

    def import_image(self, *names: str, changes: Iterable[str], extras: frozenset[str] = EXTRAS) -> None:
        """Make an image of this machine's Python and Triton.

        Args:
            names: What it is called.
            changes: Instructions of a Dockerfile that it is made with.
            extras: Of policyctl, whose requirements it has.
        """
        options = [word for change in changes for word in ("--change", change)]
        command = ["docker", "import", *options, "-", names[0]]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env={**os.environ, "DOCKER_HOST": self.host}
        ) as done:
            assert done.stdin is not None
            with done.stdin:
                pack(done.stdin, extras)
        if done.returncode != 0:
            raise AssertionError(f"docker import ended with {done.returncode}")
        for name in names[1:]:
            self.docker("tag", names[0], name)

    def derive_image(self, name: str, *, base: str, instructions: str) -> None:
        """Make an image of another one and instructions that need no files."""
        with (self.folder / "Dockerfile").open("wb+") as stream:
            stream.write(f"FROM {base}\n{instructions}\n".encode())
            stream.seek(0)
            self.docker("build", "--quiet", "--tag", name, "-", stdin=stream)


@contextmanager
def engine(folder: Path) -> Iterator[Engine]:
    """A running engine whose data are in `folder`, which is removed at the end.

    Raises:
        MissingError: This machine cannot run one.
    """
    if os.getuid() != 0:
        raise MissingError("a Docker engine needs root")
    if missing := [name for name in NEEDED if shutil.which(name) is None]:
        raise MissingError(f"not installed: {', '.join(missing)} (on Debian: apt-get install docker.io)")
    enter_network()
    found = Engine(folder)
    try:
        found.start()
        yield found
    finally:
        for name in found.docker("ps", "--all", "--quiet", check=False).stdout.split():
            found.docker("rm", "--force", "--volumes", name, check=False)
        found.stop()
        shutil.rmtree(folder, ignore_errors=True)


def enter_network() -> None:
    """Move this thread, and what it starts from now on, into a network namespace with a loopback alone.

    Raises:
        MissingError: The kernel does not allow it.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(_CLONE_NEWNET) != 0:
        raise MissingError(f"no network namespace can be made here: {os.strerror(ctypes.get_errno())}")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def image_environment() -> str:
    """The ENV instruction of the image: where programs and libraries are."""
    libraries = ":".join(map(str, (SERVER / "libs", _libdir())))
    return f"ENV PATH={ENVIRONMENT}/bin:{SERVER}/bin:/usr/bin LD_LIBRARY_PATH={libraries} PYTHONDONTWRITEBYTECODE=1"


def final_instructions(name: str = "Dockerfile") -> list[str]:
    """What the last stage of a Dockerfile of ours sets, without what it copies and runs."""
    text = (ROOT / name).read_text().rpartition("\nFROM base\n")[2].replace("\\\n", " ")
    kept = (line for line in text.splitlines() if re.match(r"(LABEL|ENV|USER|HEALTHCHECK|ENTRYPOINT|CMD) ", line))
    return [re.sub(r"ENV PATH=\S+ ", "ENV ", line) for line in kept]


def pack(stream: IO[bytes], extras: frozenset[str] = EXTRAS) -> None:
    """Write the image's files as a tar: deterministic paths, owned by root, readable by all."""
    install = locate()
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT, dereference=True, bufsize=1 << 20) as tar:
        box = _Box(tar)
        for name in ("bin", "sbin", "lib", "lib64"):
            box.link(Path("/") / name, f"usr/{name}")
        box.folder(Path("/models"), owner=USER)
        box.folder(Path("/tmp"), mode=0o1777)
        _add_server(box, install)
        _add_python(box, extras)
        if _CERTIFICATES.is_file():
            box.add(_CERTIFICATES, _CERTIFICATES)
        for name in ("sh", "bash", "cat", "env"):
            box.program(Path("/usr/bin") / name, shutil.which(name) or "")
        box.needed_libraries(environment(install))


class _Box:
    """Files of an image, each added once; remembers which of them a loader reads."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._added: set[Path] = set()
        self._loaded: list[Path] = []

    def add(self, at: Path, source: Path, *, mode: int | None = None) -> None:
        """One file."""
        if at in self._added:
            return
        self._added.add(at)
        info = self._tar.gettarinfo(str(source), str(at))
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        info.type, info.linkname, info.mode = tarfile.REGTYPE, "", mode or (0o755 if info.mode & 0o100 else 0o644)
        info.size = source.stat().st_size
        with source.open("rb") as content:
            self._tar.addfile(info, content)
        if ".so" in source.name:
            self._loaded.append(source)
        # As an installed package has it: whatever starts in a container would compile it each time otherwise.
        if source.suffix == ".py" and compileall.compile_file(source, quiet=2):
            compiled = Path(importlib.util.cache_from_source(source))
            self.add(at.parent / compiled.parent.name / compiled.name, compiled)

    def tree(self, at: Path, source: Path) -> None:
        """Every file below a folder, but caches and tests."""
        for folder, folders, names in os.walk(source):
            # Not even looked into: the folder of installed packages has tens of thousands of files.
            folders[:] = sorted(name for name in folders if not _LEFT_OUT.search(name))
            inner = at / Path(folder).relative_to(source)
            for name in sorted(names):
                path = Path(folder) / name
                if path.is_file() and not _LEFT_OUT.search(name):
                    self.add(inner / name, path)

    def program(self, at: Path, source: str | Path) -> None:
        """A file that runs, with the libraries that it needs."""
        self.add(at, Path(source), mode=0o755)
        self._loaded.append(Path(source))

    def text(self, at: Path, content: str, *, mode: int = 0o644) -> None:
        """A file of this content."""
        info = tarfile.TarInfo(str(at))
        info.size, info.mode = len(content), mode
        self._tar.addfile(info, io.BytesIO(content.encode()))

    def link(self, at: Path, to: str) -> None:
        """A symbolic link."""
        info = tarfile.TarInfo(str(at))
        info.type, info.linkname = tarfile.SYMTYPE, to
        self._tar.addfile(info)

    def folder(self, at: Path, *, mode: int = 0o755, owner: int = 0) -> None:
        """An empty folder."""
        info = tarfile.TarInfo(str(at))
        info.type, info.mode, info.uid, info.gid = tarfile.DIRTYPE, mode, owner, owner
        self._tar.addfile(info)

    def needed_libraries(self, variables: dict[str, str]) -> None:
        """The system's libraries of everything that was added, as this machine's loader finds them."""
        done = subprocess.run(
            ["ldd", *map(str, self._loaded)],
            env={**variables, "LD_PRELOAD": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        for name in sorted(set(_FOUND.findall(done.stdout))):
            path = Path(name)
            if path.is_relative_to("/lib") or path.is_relative_to("/lib64") or path.is_relative_to("/usr/lib"):
                self.add(path.parent.resolve() / path.name, path, mode=0o755)


def _add_server(box: _Box, install: TritonInstall) -> None:
    box.program(SERVER / "bin" / "tritonserver", install.tritonserver)
    box.tree(SERVER / "libs", install.libraries)
    box.tree(SERVER / "caches", install.caches)
    folder = assemble(install, Path(os.environ.get("TMPDIR", "/tmp")))
    try:
        for path in sorted(each for each in folder.rglob("*") if each.is_file()):
            box.add(BACKENDS / path.relative_to(folder), path.resolve())
    finally:
        shutil.rmtree(folder)


def _add_python(box: _Box, extras: frozenset[str]) -> None:
    standard, home = Path(sysconfig.get_path("stdlib")), Path(sys.executable).resolve().parent
    box.program(home / "python3", Path(sys.executable).resolve())
    box.tree(standard, standard)
    with contextlib.suppress(StopIteration):
        shared = next(_libdir().glob("libpython3.*.so.1.0"))
        box.add(shared, shared)
    box.text(ENVIRONMENT / "pyvenv.cfg", f"home = {home}\ninclude-system-site-packages = false\n")
    for name in ("python", "python3"):
        box.link(ENVIRONMENT / "bin" / name, str(home / "python3"))
    starter = "from policyctl.__main__ import main\nmain()\n"
    box.text(ENVIRONMENT / "bin" / "policyctl", f"#!{ENVIRONMENT}/bin/python\n{starter}", mode=0o755)
    packages = ENVIRONMENT / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    for name in sorted(_distributions(extras)):
        for file in importlib.metadata.files(name) or ():
            if not file.as_posix().startswith("..") and not _LEFT_OUT.search(file.as_posix()):
                source = Path(str(file.locate()))
                if source.is_file():
                    box.add(packages / file, source.resolve())
    box.tree(packages / "policyctl", ROOT / "control" / "policyctl")
    box.tree(packages / "policyctl_exporters", ROOT / "exporters" / "policyctl_exporters")


def _libdir() -> Path:
    return Path(str(sysconfig.get_config_var("LIBDIR")))


def _distributions(extras: frozenset[str]) -> set[str]:
    """What policyctl needs to run its commands and to serve, without CUDA; not policyctl itself."""
    found: set[str] = set()
    waiting = [Requirement(f"policyctl[{','.join(extras)}]"), *map(Requirement, RUNTIMES)]
    while waiting:
        each = waiting.pop()
        chosen = {"grpc"} if each.name == "tritonclient" else each.extras
        if each.name in found:
            continue
        found.add(each.name)
        for text in importlib.metadata.requires(each.name) or ():
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in (*chosen, "")):
                waiting.append(needed)
    return found - {"policyctl"}
