"""Start, watch and stop one tritonserver in a container of NVIDIA's image.

The twin of `policyctl.serving.process`, on Docker's API (the `docker` package,
imported where it is needed); `policyctl.serving.container_request` says what
is asked for, and what is promised of it.

An image is never fetched here: it is some 10 GB, and which one runs is the
operator's decision. A container outlives its supervisor where that is killed; it
bears the repository's label, and the next server of that repository removes it
first.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from policyctl.errors import ServerError, UnsupportedError, connection_text
from policyctl.plain_files import denied
from policyctl.serving import checks
from policyctl.serving.command import ServerOptions
from policyctl.serving.container_request import LABEL, Mounts, container_name, creation
from policyctl.serving.logs import OnLog, ignore
from policyctl.serving.run import ServerRun
from policyctl.settings import DockerSettings

_STOP_RESERVE_S: Final = 5
_ENDING: Final = frozenset({"2", "15"})
"""Signals on which tritonserver lets go of its models first, and ends some time after."""
_SAME_END_S: Final = 2.0
"""The kernel's end of a process and the container's end this close are one."""
_SOCKET: Final = "unix://"
_DOCKER_HOST: Final = "unix:///var/run/docker.sock"


class TritonContainer(ServerRun):
    """One server in a container.

    Args:
        options: How the server runs, as seen from this machine.
        settings: Image, user and limits.
        mounts: Key and traces.
        gpu: Give it every NVIDIA GPU.
        on_log: Called with every line of its log, on a thread of ours.
        client: Docker's client; that of the environment (``DOCKER_HOST``) if not given.
    """

    name = "the container"
    poll_s = 0.05

    def __init__(
        self,
        options: ServerOptions,
        settings: DockerSettings,
        mounts: Mounts,
        *,
        gpu: bool = False,
        on_log: OnLog = ignore,
        client: Any = None,
    ) -> None:
        super().__init__(options, on_log)
        self.settings = settings
        self.mounts = mounts
        self._gpu = gpu
        self._client = client
        self._container: Any = None
        self._started_at = ""
        self._stirred = threading.Event()
        self._asked_to_end = False

    @property
    def remedy(self) -> str:
        """What to do where it does not answer."""
        return f"Look: docker logs {container_name(self.options.repository.absolute())}"

    def start(self) -> None:
        """Remove what an earlier supervisor left, and start it; `wait_live` says when it answers.

        Raises:
            ServerError: It was started before, a port is taken, or Docker refuses.
            UnsupportedError: No Docker answers, or the image is not there.
            UsageError: The settings ask for root, or for a port that is not on loopback.
        """
        if self._container is not None:
            raise ServerError("this container was started before", remedy="Make a new TritonContainer.")
        called = creation(self.options, self.settings, self.mounts, gpu=self._gpu)
        client = self._client = self._client or connect()
        require_image(client, self.settings.image)
        with _translated("remove what an earlier server left"):
            for left in client.containers.list(all=True, filters={"label": f"{LABEL}={called['labels'][LABEL]}"}):
                left.remove(force=True, v=True)
        # Docker would say it in its own words, after the container was made.
        self._refuse_taken_ports()
        with _translated(f"start {self.settings.image}"):
            self._container = client.containers.create(**called)
            threading.Thread(target=self._listen, args=(self._container,), name="container-end", daemon=True).start()
            self._container.start()
            self._container.reload()
        self._started_at = str(self._state().get("StartedAt", ""))
        threading.Thread(target=self._drain, args=(self._container,), name="container-log", daemon=True).start()

    def is_running(self) -> bool:
        """Whether this very run of the container goes on; one that somebody restarted is another.

        A paused one does not go on, nor one that somebody stops: it answers
        nobody from the first signal on. Docker's own silence says nothing about
        Triton, which may go on without it.
        """
        if self._container is None:
            return False
        self._stirred.clear()
        try:
            with _translated("look at the container"):
                self._container.reload()
        except UnsupportedError:
            return not self._asked_to_end
        except ServerError:
            return False  # it was removed
        state = self._state()
        if self._asked_to_end:
            return False
        return state.get("Status") == "running" and state.get("StartedAt") == self._started_at

    def may_have_ended(self) -> bool:
        """Whether Docker reported something that ends a run; without a report it is asked all the same, later."""
        return self._stirred.is_set()

    def ended(self) -> str:
        """How it ended, in words."""
        state = self._state()
        match state.get("Status"):
            case "running":
                return "somebody stopped it" if self._asked_to_end else "somebody restarted it"
            case "paused":
                return "somebody paused it"
        code = f"exit code {state.get('ExitCode', '?')}"
        if not state.get("OOMKilled"):
            return code
        limit = f"docker.memory_mib is {self.settings.memory_mib}"
        outlived_s = self._outlived_s(state)
        if outlived_s < _SAME_END_S:
            return f"out of memory: {limit}"
        return f"{code}; {outlived_s:.0f} s before that the kernel ended a process in it for its memory: {limit}"

    def _outlived_s(self, state: Mapping[str, Any]) -> float:
        """For how long it went on after the kernel last ended a process in it; 0 where Docker cannot say.

        Docker's own flag says of every later end as well that memory was its reason.
        """
        with contextlib.suppress(ServerError, UnsupportedError, ValueError, KeyError), _translated("ask what happened"):
            began, ended = (
                datetime.fromisoformat(str(state[name])).timestamp() for name in ("StartedAt", "FinishedAt")
            )
            filters = {"container": self._container.id, "event": "oom"}
            times: list[float] = [
                each["timeNano"] / 1e9
                for each in self._client.events(
                    since=f"{began:.6f}", until=f"{ended:.6f}", filters=filters, decode=True
                )
            ]
            return ended - max(times)
        return 0.0

    def exit_code(self) -> int | None:
        """What it ended with; None where it runs, or is gone."""
        state = self._state()
        return None if state.get("Status") != "exited" else int(state.get("ExitCode", 0))

    def stop(self, *, at_once: bool = False) -> None:
        """End and remove it; nothing happens where there is nothing."""
        paused = self._state().get("Status") == "paused"
        container, self._container = self._container, None
        if container is None:
            return
        # A daemon that is gone, or somebody who removed it first, leaves nothing to do here.
        if not (at_once or paused or self._asked_to_end):
            with contextlib.suppress(ServerError, UnsupportedError), _translated("stop the container"):
                container.stop(timeout=self.options.exit_timeout_s + _STOP_RESERVE_S)
        with contextlib.suppress(ServerError, UnsupportedError), _translated("remove the container"):
            container.remove(force=True, v=True)

    def _listen(self, container: Any) -> None:
        """Hear from Docker what ends this run, as it happens."""
        filters = {"container": container.id, "event": ["die", "pause", "kill", "destroy"]}
        with contextlib.suppress(ServerError, UnsupportedError), _translated("hear its events"):
            for event in self._client.events(filters=filters, decode=True):
                if event["Action"] == "kill":
                    if event["Actor"]["Attributes"].get("signal") not in _ENDING:
                        continue
                    self._asked_to_end = True
                break
        self._stirred.set()

    def _state(self) -> Mapping[str, Any]:
        return {} if self._container is None else self._container.attrs.get("State", {})

    def _drain(self, container: Any) -> None:
        with contextlib.suppress(ServerError, UnsupportedError), _translated("read its log"):
            rest = b""
            for chunk in container.logs(stream=True, follow=True):
                *lines, rest = (rest + chunk).split(b"\n")
                for raw in lines:
                    self._take_line(raw)


def address() -> str:
    """Where the Docker of the environment is asked."""
    return os.environ.get("DOCKER_HOST") or _DOCKER_HOST


def connect() -> Any:
    """A client of the Docker that the environment names.

    Raises:
        UnsupportedError: The package is not installed, or no Docker answers.
    """
    try:
        import docker
    except ImportError:
        raise UnsupportedError(
            "the package docker is not installed", remedy="Install it: pip install 'policyctl[docker]'"
        ) from None
    with _translated("reach Docker"):
        client = docker.from_env()
        client.ping()
    return client


def require_image(client: Any, image: str, *, python_backends: bool = False) -> None:
    """Refuse where the image is not on Docker's machine, or cannot serve.

    Args:
        client: Docker's client.
        image: Its name.
        python_backends: Whether Python-based backends shall serve in it.

    Raises:
        UnsupportedError: It is not there, or lacks the bash that Triton starts Python-based backends through.
    """
    from docker.errors import ImageNotFound

    try:
        with _translated(f"look for {image}"):
            client.images.get(image)
    except ServerError as error:
        if isinstance(error.__cause__, ImageNotFound):
            raise UnsupportedError(
                f"the image {image} is not on this machine", remedy=f"Fetch it (some 10 GB): docker pull {image}"
            ) from error
        raise
    if python_backends and not any(_has_file(client, image, path) for path in ("/bin/bash", "/usr/bin/bash")):
        raise UnsupportedError(f"the image {image} has no bash: {checks.WITHOUT_BASH}", remedy="Install bash in it.")


def _has_file(client: Any, image: str, path: str) -> bool:
    """Whether the image holds a file; nothing of the image runs."""
    from docker.errors import NotFound

    with _translated(f"look into {image}"):
        container = client.containers.create(image, network_disabled=True)
        try:
            chunks, _ = container.get_archive(path)
            chunks.close()
        except NotFound:
            return False
        finally:
            container.remove(force=True, v=True)
    return True


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    """Docker's refusals as ours; a Docker that does not answer is something that is missing here."""
    from docker.errors import APIError, DockerException
    from requests.exceptions import RequestException

    remedy = "Is Docker running, and may you use it? Try: docker info"
    try:
        yield
    except APIError as error:
        raise ServerError(f"Docker: cannot {doing}: {error.explanation or error}") from error
    except (DockerException, RequestException) as error:
        text = connection_text(error)
        if text == os.strerror(errno.EACCES) and address().startswith(_SOCKET):
            refused = denied(PermissionError(errno.EACCES, text, address().removeprefix(_SOCKET)))
            raise UnsupportedError(f"Docker: cannot {doing}: {refused.problem}", remedy=refused.remedy) from error
        raise UnsupportedError(f"Docker: cannot {doing}: {text}", remedy=remedy) from error
