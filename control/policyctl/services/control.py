"""What every service needs: settings, the repository, the server, and a voice.

Also the two ways to look at a published release: read whole and verified, and
asked through a server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from policyctl import correlation
from policyctl.adapters import endpoint as endpoints
from policyctl.adapters.endpoint import Endpoint
from policyctl.adapters.repository import Repository
from policyctl.adapters.triton import Triton
from policyctl.domain.artifacts import CARD_FILE, CONTRACT_FILE, FILES, GOLDEN_FILE, PARITY_FILE, Format
from policyctl.domain.contract import Contract
from policyctl.domain.log_event import LogLevel
from policyctl.domain.manifest import FileEntry
from policyctl.domain.state import PublishedRelease, State
from policyctl.errors import PolicyctlError, ServerError, UsageError
from policyctl.integrity import read_release
from policyctl.services.log import Log, new_operation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from policyctl.domain.golden import Golden
    from policyctl.gates.golden import Infer
    from policyctl.settings import Settings

Say = Callable[[str], None]

_P = ParamSpec("_P")
_T = TypeVar("_T")


Note = Callable[[str], None]
"""Takes how far long work has come, in words: ``3 of 13``."""

Show = Callable[[str, float | None], AbstractContextManager[Note]]
"""Shows that work goes on: what is done, and the seconds that it may take."""


def silent(_: str) -> None:
    """Say nothing."""


@contextmanager
def show_nothing(_words: str, _at_most_s: float | None) -> Iterator[Note]:
    """Show nothing of how far work has come."""
    yield silent


@dataclass(slots=True)
class Control:
    """The control plane of one repository.

    Attributes:
        settings: Everything that can be set. A frozen value; `services.supervise.reload`
            puts another in its place, as a whole, and nobody else does. Who
            needs two settings that belong together reads them from one value.
        repository: The model repository.
        say: Where words for people go, a line a call.
        log: Where lines for machines go.
        show: How people see that long work goes on.
    """

    settings: Settings
    repository: Repository
    say: Say = field(default=silent)
    log: Log = field(default_factory=Log)
    show: Show = field(default=show_nothing)

    @classmethod
    def of(cls, settings: Settings, say: Say = silent, *, actor: str = "") -> Control:
        """The control plane that `settings` describe; it keeps no log.

        Args:
            settings: Everything that can be set.
            say: Where words for people go.
            actor: In whose name it acts; empty for the user of this process.
        """
        return cls(settings, Repository(settings.repository, actor=actor), say)

    def tell(self, words: str, *, level: LogLevel = LogLevel.INFO, logger: str = "policyctl", **fields: Any) -> None:
        """Say something to people, and write it down; what is for debugging is written only.

        Args:
            words: For both.
            level: How much it matters.
            logger: Who says it.
            fields: For machines.
        """
        if level is not LogLevel.DEBUG:
            self.say(words)
        self.log.write(level, words, logger=logger, **fields)

    @contextmanager
    def working(self, words: str, *, at_most_s: float | None = None) -> Iterator[Note]:
        """Say that work begins which may take long, and show that it goes on while the block runs.

        Args:
            words: What is done.
            at_most_s: How long it may take, where that is known.

        Yields:
            Takes how far it has come.
        """
        self.say(f"{words} ...")
        with self.show(words, at_most_s) as note:
            yield note

    def known(self, model: str | None = None) -> State:
        """What the journal says; refuses where nothing was ever published, or nothing of `model`."""
        self.repository.require()
        state = self.repository.journal.state()
        if model is not None:
            state.require(model)
        return state

    def endpoint(self) -> Endpoint:
        """The server to use: the one that is named by a setting, else the one that `policyctl serve` announced.

        Where both are the same, what was announced names the very run of it.

        Raises:
            ServerError: None is named and none is running.
            UsageError: None is named, and this process may not read where the running one is.
        """
        server = self.settings.server
        try:
            announced = endpoints.read(self.repository)
        except UsageError:
            if not server.url:
                raise
            announced = None  # a caller who named the server need not be able to read it
        if server.url and (announced is None or announced.grpc != server.url):
            return Endpoint(http=server.http_url, grpc=server.url, api_key=server.api_key.get_secret_value())
        if announced is not None:
            return announced
        raise ServerError(
            f"no server is running on {self.repository.root}",
            remedy="Start one with: policyctl serve. Or name a running one with --url HOST:PORT.",
        )

    def client(self, endpoint: Endpoint, *, timeout_s: float | None = None) -> Triton:
        """A client of one server, which the caller closes.

        Args:
            endpoint: Which server.
            timeout_s: For one request; None for that of the settings.
        """
        server = self.settings.server
        return Triton(endpoint, timeout_s=timeout_s or server.timeout_s, load_timeout_s=server.load_timeout_s)

    def _require_same_repository(self, client: Triton) -> None:
        """Refuse a server that says that it serves another repository; one that announced itself in ours serves it."""
        if client.endpoint.supervisor:
            return
        mine, theirs = self.repository.id, client.repository()
        if theirs and theirs != mine:
            raise ServerError(
                f"the server at {client.endpoint.grpc} serves another repository (its id is {theirs}),"
                f" not {self.repository.root} ({mine or 'which has none yet'})",
                remedy="Name that server's own repository with --repository, or the server of this one with --url.",
            )

    @contextmanager
    def triton(self) -> Iterator[Triton]:
        """A client of the server.

        Raises:
            ServerError: No server answers, or it serves another repository.
        """
        client = self.client(self.endpoint())
        try:
            client.require_live()
            self._require_same_repository(client)
            yield client
        finally:
            client.close()


def operation(
    name: str,
) -> Callable[[Callable[Concatenate[Control, _P], _T]], Callable[Concatenate[Control, _P], _T]]:
    """Decorate a use case: its lines in the log share an id, and its end is written down, a refusal too.

    Called inside another use case it is part of that one.
    """

    def decorate(work: Callable[Concatenate[Control, _P], _T]) -> Callable[Concatenate[Control, _P], _T]:
        @wraps(work)
        def run(control: Control, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
            about = {k: str(kwargs[k]) for k in ("model", "alias", "release") if kwargs.get(k) is not None}
            own = {} if "operation" in correlation.current() else {"operation": new_operation(name)}
            with correlation.bound(**own, **about):
                control.log.write(LogLevel.DEBUG, f"{name} begins", logger=f"policyctl.{name}")
                try:
                    result = work(control, *args, **kwargs)
                except PolicyctlError as error:
                    words = f"{name}: {error.problem}"
                    control.log.write(LogLevel.ERROR, words, logger=f"policyctl.{name}", code=error.code)
                    raise
                control.log.write(LogLevel.DEBUG, f"{name} ends", logger=f"policyctl.{name}")
                return result

        return run

    return decorate


def select_release(control: Control, model: str, text: str) -> str:
    """The published release that a person means by `text`, now; says so where the text is another.

    Args:
        control: The control plane.
        model: Which model.
        text: A release, a range, ``latest`` or an alias; see `State.select`.

    Raises:
        UsageError: There is no such model or release; names those that exist.
    """
    found = control.known().select(model, text).release
    if found != text:
        control.say(f"{text} of {model} is {found}.")
    return found


@dataclass(frozen=True, slots=True)
class OpenRelease:
    """A release that was read whole, verified, and understood.

    Attributes:
        published: What the journal says of it.
        contract: Its inputs and outputs.
        golden: Its golden set.
        formats: Which artifacts it holds.
        files: Every file of it.
        contents: The bytes of contract, golden set, parity and model card.
    """

    published: PublishedRelease
    contract: Contract
    golden: Golden
    formats: tuple[Format, ...]
    files: tuple[FileEntry, ...]
    contents: Mapping[str, bytes]

    def choose(self, wanted: Format | None) -> Format:
        """The format to serve: `wanted`, else the first of OpenVINO, ONNX, TorchScript, TensorRT.

        See `preferred_format` for what is wanted where nobody says.

        Raises:
            UsageError: The release does not hold it.
        """
        if wanted is None:
            order = (Format.OPENVINO, Format.ONNX, Format.TORCHSCRIPT, Format.TENSORRT)
            return next(f for f in order if f in self.formats)
        if wanted not in self.formats:
            raise UsageError(
                f"{self.published.model} {self.published.release} holds no {wanted} artifact",
                remedy=f"Choose one of: {', '.join(self.formats)}.",
            )
        return wanted


def preferred_format(control: Control, opened: OpenRelease) -> Format | None:
    """What is served where nobody names a format; None for the usual order.

    NVIDIA's own OpenVINO backend computes no other batch than a full one, and in
    bf16 where the CPU can; its ONNX Runtime backend has neither limit.
    """
    if (wanted := control.settings.serving.format) is not None:
        return wanted
    running = endpoints.read(control.repository)
    nvidia = running is not None and running.backends == "nvidia"
    return Format.ONNX if nvidia and Format.ONNX in opened.formats else None


def open_release(repository: Repository, published: PublishedRelease) -> OpenRelease:
    """Read and verify a published release.

    Raises:
        IntegrityError: Any file is not what was published.
    """
    import json

    from policyctl.domain.golden import Golden  # late: it needs numpy

    kept = (CONTRACT_FILE, GOLDEN_FILE, PARITY_FILE, CARD_FILE)
    folder = repository.slot(published.model, published.slot)
    verified = read_release(folder, keep=kept, expected_digest=published.manifest_digest)
    contract = Contract.from_json(json.loads(verified.contents[CONTRACT_FILE]))
    paths = {entry.path for entry in verified.manifest.files}
    return OpenRelease(
        published=published,
        contract=contract,
        golden=Golden.from_bytes(verified.contents[GOLDEN_FILE], contract),
        formats=tuple(f for f in Format if paths.issuperset(FILES[f])),
        files=verified.manifest.files,
        contents=verified.contents,
    )


def asker(client: Triton, served: str, *, slot: int | None = None) -> Infer:
    """How a gate asks the Triton model `served` (or one slot of it)."""

    def ask(
        observations: Mapping[str, NDArray[Any]], outputs: tuple[str, ...]
    ) -> tuple[int, Mapping[str, NDArray[Any]]]:
        answer = client.infer(served, observations, outputs, slot=slot)
        return answer.slot, answer.outputs

    return ask
