"""What every backend does, whatever computes the actions: load a release whole, answer requests.

Triton starts one process for each model instance and calls the class here.

Loading promises: the slot is read once, every file of it is held against the
manifest that ``config.pbtxt`` pins by digest, and exactly the bytes that were
hashed are compiled. Anything else raises, so the load fails, Triton keeps what
it served, and the operator reads which file was wrong.

Answering promises: requests that Triton batches are computed in one inference;
a request that cannot be answered gets its error and the others get
their actions; no action that is not finite is ever sent.

A request that its client has cancelled gets no inference while it waits in
Triton's queue, which drops it there. It is not looked up again here: asking
costs a round trip to the server, more than the inference that it may save.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import triton_python_backend_utils as pb

from policyctl.domain.artifacts import CONTRACT_FILE
from policyctl.domain.contract import Contract
from policyctl.errors import IntegrityError
from policyctl.integrity import VerifiedRelease, read_release
from policyctl.serving.backends.batching import (
    Arrays,
    BadAnswerError,
    BadRequestError,
    Checker,
    example,
    join,
    split,
)
from policyctl.serving.backends.refusals import Reason, Refusals
from policyctl.serving.backends.spec import ModelSpec, check_contract

Request = Any
Response = Any


class Session(Protocol):
    """A compiled artifact.

    An output may be a view of memory that the next call overwrites.
    """

    def run(self, inputs: Arrays) -> Arrays:
        """Outputs in the contract's order for inputs in the contract's order."""
        ...


def end_with(server: int) -> None:
    """End this process when the process `server` ends, however both are.

    Triton's stub looks for that itself, but under a lock that it shares with the
    server: one that is killed while it holds the lock leaves the stub for ever.
    """
    try:
        ended = os.pidfd_open(server)
    except OSError:  # it has ended, and the stub sees it; or a kernel before 5.3
        return

    def wait() -> None:
        until = select.poll()
        until.register(ended, select.POLLIN)
        until.poll()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="server-watch", daemon=True).start()


class PolicyModel(ABC):
    """The class that Triton looks for, but for what compiles the artifact."""

    default_filename: ClassVar[str]
    warm_up_runs: ClassVar[int] = 1

    @abstractmethod
    def open_session(self, spec: ModelSpec, contract: Contract, files: Mapping[str, bytes]) -> Session:
        """Compile the artifact from `files`, and hold its tensors against the contract."""

    def files_of(self, spec: ModelSpec) -> tuple[str, ...]:
        """The artifact's files in the slot."""
        return (spec.filename,)

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the release in the slot that Triton names.

        Args:
            args: Triton's: ``model_config`` (JSON), ``model_repository`` (the
                model's folder), ``model_name``, ``model_version``.

        Raises:
            IntegrityError: The slot is not, file by file, what was published.
            UsageError: Contract, configuration and artifact do not fit.
        """
        started = time.perf_counter()
        end_with(os.getppid())
        spec = ModelSpec.from_json(args["model_config"], default_filename=self.default_filename)
        verified = read_release(
            Path(args["model_repository"]) / args["model_version"],
            keep=(*self.files_of(spec), CONTRACT_FILE),
            expected_digest=spec.required("manifest_digest"),
        )
        _check_identity(verified, spec, served=args["model_name"])
        contract = Contract.from_json(json.loads(verified.contents[CONTRACT_FILE]))
        check_contract(spec, contract)
        self._inputs = [port.name for port in spec.inputs]
        self._outputs = [port.name for port in spec.outputs]
        self._checker = Checker(contract)
        self._session = self.open_session(spec, contract, verified.contents)
        self._warm_up(contract)
        self._refusals = Refusals(pb, model=args["model_name"], version=args["model_version"])
        give_back_memory()
        record = {
            "model": args["model_name"],
            "version": args["model_version"],
            "release": verified.manifest.release,
            "manifest_digest": verified.manifest_digest,
            "load_ms": round((time.perf_counter() - started) * 1e3, 1),
        }
        self._label = {key: record[key] for key in ("model", "version", "release")}
        pb.Logger.log_info(f"policyctl loaded {json.dumps(record)}")

    def execute(self, requests: Sequence[Request]) -> list[Response]:
        """Answer every request, in order."""
        responses: list[Response | None] = [None] * len(requests)
        good: list[int] = []
        arrays: list[Arrays] = []
        rows: list[int] = []
        for index, request in enumerate(requests):
            try:
                inputs = self._take(request)
                rows.append(self._checker.request(inputs))
            except BadRequestError as error:
                responses[index] = self._refuse(request, error, pb.TritonError.INVALID_ARG)
            else:
                good.append(index)
                arrays.append(inputs)
        if good:
            answers = self._compute(arrays, rows)
            for index, answer in zip(good, answers, strict=True):
                responses[index] = self._respond(requests[index], answer)
        return responses

    def finalize(self) -> None:
        """Let go of the compiled artifact."""
        if hasattr(self, "_session"):
            del self._session
            self._refusals.close()
            pb.Logger.log_info(f"policyctl unloaded {json.dumps(self._label)}")

    def _take(self, request: Request) -> Arrays:
        inputs = []
        for name in self._inputs:
            tensor = pb.get_input_tensor_by_name(request, name)
            if tensor is None:
                raise BadRequestError(f"input {name} is missing")
            inputs.append(tensor.as_numpy())
        return inputs

    def _compute(self, arrays: list[Arrays], rows: list[int]) -> list[Arrays | Exception]:
        """One answer, or the reason why it is missing, for each request."""
        try:
            answers = split(self._infer(join(arrays), sum(rows)), rows)
        except Exception as error:  # noqa: BLE001 - a runtime raises what it likes
            if len(arrays) == 1:
                return [error]
            # Somebody's rows stopped the whole batch: find out whose.
            return [self._compute_alone(own, count) for own, count in zip(arrays, rows, strict=True)]
        return [self._checked(answer) for answer in answers]

    def _compute_alone(self, arrays: Arrays, rows: int) -> Arrays | Exception:
        try:
            # Copies, because the next request's inference writes where this one's did.
            return self._checked([np.array(output) for output in self._infer(arrays, rows)])
        except Exception as error:  # noqa: BLE001 - a runtime raises what it likes
            return error

    def _infer(self, arrays: Arrays, rows: int) -> Arrays:
        outputs = self._session.run(arrays)
        self._checker.shapes(outputs, rows)
        return outputs

    def _checked(self, answer: Arrays) -> Arrays | Exception:
        try:
            self._checker.finite(answer)
        except BadAnswerError as error:
            return error
        return answer

    def _respond(self, request: Request, answer: Arrays | Exception) -> Response:
        if isinstance(answer, Exception):
            return self._refuse(request, answer, pb.TritonError.INTERNAL)
        wanted = request.requested_output_names()
        return pb.InferenceResponse(
            [pb.Tensor(name, array) for name, array in zip(self._outputs, answer, strict=True) if name in wanted]
        )

    def _refuse(self, request: Request, error: Exception, code: Any) -> Response:
        # The id is the client's text: as JSON it cannot forge a line of the log. What a runtime
        # says may hold values of the observation: that is the client's to read, and not the log's.
        ours = isinstance(error, (BadRequestError, BadAnswerError))
        reason = str(error) if ours else f"{type(error).__name__}, its words went to the client alone"
        record = {**self._label, "request_id": request.request_id(), "error": reason}
        theirs = code == pb.TritonError.INVALID_ARG
        self._refusals.count(Reason.REQUEST if theirs else Reason.POLICY)
        level = pb.Logger.log_warn if theirs else pb.Logger.log_error
        level(f"policyctl refused {json.dumps(record)}")
        return pb.InferenceResponse(output_tensors=[], error=pb.TritonError(str(error), code))

    def _warm_up(self, contract: Contract) -> None:
        """Answer once before Triton calls the model ready, so that no client waits for it."""
        for _ in range(self.warm_up_runs):
            self._infer(example(contract), 1)


def give_back_memory() -> None:
    """Return to the system what loading took and freed again.

    It is some megabytes in every process; and left there, it would hide a leak
    until it was filled. Only the GNU C library can do it.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _check_identity(verified: VerifiedRelease, spec: ModelSpec, *, served: str) -> None:
    """Raises: IntegrityError: The slot holds another model or release than it is served as."""
    manifest = verified.manifest
    # A served name is the model's, or the model's, a dot and the alias's.
    model, release = served.partition(".")[0], spec.required("release")
    if (manifest.model, manifest.release) != (model, release):
        raise IntegrityError(
            f"{served}: config.pbtxt says {model} {release},"
            f" the slot's manifest says {manifest.model} {manifest.release}",
            remedy="Let policyctl write config.pbtxt: promote the release again.",
        )
