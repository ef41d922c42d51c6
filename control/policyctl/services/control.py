"""What every service needs: settings, the repository, the server, and a voice.

Also the two ways to look at a published release: read whole and verified, and
asked through a server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from policyctl.adapters import endpoint as endpoints
from policyctl.adapters.endpoint import Endpoint
from policyctl.adapters.repository import Repository
from policyctl.adapters.triton import Triton
from policyctl.domain.artifacts import CARD_FILE, CONTRACT_FILE, FILES, GOLDEN_FILE, PARITY_FILE, Format
from policyctl.domain.contract import Contract
from policyctl.domain.golden import Golden
from policyctl.domain.manifest import FileEntry
from policyctl.domain.state import PublishedRelease
from policyctl.errors import ServerError, UsageError
from policyctl.gates.golden import Infer
from policyctl.integrity import read_release
from policyctl.settings import Settings

Say = Callable[[str], None]


def silent(_: str) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True)
class Control:
    """The control plane of one repository.

    Attributes:
        settings: Everything that can be set.
        repository: The model repository.
        say: Where words for people go, a line a call.
    """

    settings: Settings
    repository: Repository
    say: Say = field(default=silent)

    @classmethod
    def of(cls, settings: Settings, say: Say = silent) -> Control:
        """The control plane that `settings` describe."""
        return cls(settings, Repository(settings.repository), say)

    def endpoint(self) -> Endpoint:
        """The server to use: the one that is named by a setting, else the embedded one.

        Raises:
            ServerError: None is named and none is running.
        """
        server = self.settings.server
        if server.url:
            return Endpoint(http=server.http_url, grpc=server.url, api_key=server.api_key.get_secret_value())
        if found := endpoints.read(self.repository):
            return found
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

    @contextmanager
    def triton(self) -> Iterator[Triton]:
        """A client of the server.

        Raises:
            ServerError: No server answers.
        """
        client = self.client(self.endpoint())
        try:
            client.require_live()
            yield client
        finally:
            client.close()


def select_release(control: Control, model: str, text: str) -> str:
    """The published release that a person means by `text`, now; says so where the text is another.

    Args:
        control: The control plane.
        model: Which model.
        text: A release, a range, ``latest`` or an alias; see `State.select`.

    Raises:
        UsageError: There is no such model or release; names those that exist.
    """
    control.repository.require()
    found = control.repository.journal.state().select(model, text).release
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


def open_release(repository: Repository, published: PublishedRelease) -> OpenRelease:
    """Read and verify a published release.

    Raises:
        IntegrityError: Any file is not what was published.
    """
    import json

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
