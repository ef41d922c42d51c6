"""Write the artifacts of a graph, each from the one before it where that is how it is made.

ONNX and TorchScript come from the torch graph; OpenVINO and TensorRT (`tensorrt_plan`) come from
ONNX. No file names a folder of the machine that it was written on. OpenVINO
and TorchScript number what has no name with counters that never start again:
here such names are replaced, so a second export has the same bytes.
"""

from __future__ import annotations

import inspect
import io
import keyword
import pickletools
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from policyctl.domain.artifacts import FILES, Format
from policyctl.domain.contract import Contract
from policyctl.errors import UnsupportedError, first_line, last_line
from policyctl_exporters.onnx_lookup import strict_lookups
from policyctl_exporters.openvino_apart import keep_apart
from policyctl_exporters.openvino_axes import with_axes
from policyctl_exporters.openvino_lookup import guard_lookups
from policyctl_exporters.openvino_nan import keep_nan

OPSET: Final = 17

_MOST_PASSED: Final = 2000
_MANGLED: Final = re.compile(rb"((?:__torch__[\w./]*?[./])?)___torch_mangle_(\d+)")


def write_onnx(graph: Any, contract: Contract, path: Path) -> None:
    """Export a torch graph to ONNX with a dynamic batch.

    Args:
        graph: Takes the contract's observations in order, gives its outputs in order.
    """
    import onnx
    import torch

    if _holds_programs(graph):
        # The ONNX exporter refuses to trace into TorchScript, but takes TorchScript whole.
        # The first trace of a class names its operations otherwise than each later one.
        _trace(graph, contract)
        graph = _trace(graph, contract)
    inputs = [spec.name for spec in contract.observations]
    outputs = [spec.name for spec in contract.outputs]
    with _exporting(), strict_lookups(OPSET):
        try:
            torch.onnx.export(
                graph,
                examples(contract),
                str(path),
                dynamo=False,
                opset_version=OPSET,
                input_names=inputs,
                output_names=outputs,
                dynamic_axes={name: {0: "batch"} for name in (*inputs, *outputs)},
            )
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            raise UnsupportedError(
                f"the policy cannot be written as ONNX: {first_line(error)}",
                remedy="Leave onnx and openvino out, or replace the operation.",
            ) from error
    model = onnx.load_from_string(path.read_bytes())
    for spec, value in zip(contract.outputs, model.graph.output, strict=True):
        # The tracer leaves inner dimensions of some outputs unnamed; the contract knows them.
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        shape.dim.add().dim_param = "batch"
        for size in spec.shape:
            shape.dim.add().dim_value = size
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def write_openvino(onnx_path: Path, folder: Path, contract: Contract) -> None:
    """Convert ONNX to OpenVINO IR, weights in float32, that keeps NaN and fails beyond its tables."""
    from policyctl.sessions.quiet_openvino import ov

    wanted = {spec.name for spec in (*contract.observations, *contract.outputs)}
    try:
        model = ov.Core().read_model(with_axes(onnx_path))
        keep_apart(model)
        guard_lookups(model)
        keep_nan(model)
        # Conversion leaves the names of fused operations on inputs and outputs as well.
        for port in (*model.inputs, *model.outputs):
            names = port.get_names() & wanted
            if names:
                port.get_tensor().set_names(names)
        name_operations(model)
        ov.save_model(model, str(folder / FILES[Format.OPENVINO][0]), compress_to_fp16=False)
    except RuntimeError as error:
        said = str(error).partition("To facilitate the conversion")[0]  # advice about extensions of OpenVINO follows
        raise UnsupportedError(
            f"OpenVINO cannot convert the policy: {last_line(RuntimeError(said))}",
            remedy="Leave openvino out of the formats.",
        ) from error


def write_torchscript(graph: Any, contract: Contract, path: Path, *, trusted: bool) -> None:
    """Trace a torch graph. Its `forward` always gives a tuple, in the contract's order.

    The module is not frozen: frozen constants do not move to another device.
    """
    import torch

    from policyctl_exporters.torchscript import load_program

    buffer = io.BytesIO()
    with _exporting():
        program = _trace(graph, contract)
        # TorchScript numbers classes from the second trace of a class on; number_classes needs all numbered.
        if _holds_programs(graph) or not all(map(_number, program.modules())):
            pass_numbers(graph, newest=program)
            program = _trace(graph, contract)
        torch.jit.save(program, buffer)
    content = _without_source_locations(buffer.getvalue())
    load_program(content, name="the exported program", trusted=trusted)
    path.write_bytes(content)


def _holds_programs(graph: Any) -> bool:
    """Whether a part of a graph is TorchScript already."""
    import torch

    return any(isinstance(module, torch.jit.ScriptModule) for module in graph.modules())


def _trace(graph: Any, contract: Contract) -> Any:
    import torch

    with _exporting():
        try:
            with _named_inputs(graph, contract):
                return torch.jit.trace(  # type: ignore[no-untyped-call]
                    graph, examples(contract), check_trace=False, strict=False
                )
        except RuntimeError as error:
            raise UnsupportedError(
                f"the policy cannot be traced: {first_line(error)}",
                remedy="Leave torchscript out of the formats.",
            ) from error


@contextmanager
def _exporting() -> Iterator[None]:
    """Let torch write every operator by itself: attention has a fast path that no other runtime knows.

    The tracer's warnings say nothing new: `conduct` has found every value that
    Python reads, and parity holds what became of shapes against other batches.
    """
    import torch

    from policyctl_exporters.conduct import unvalidated

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    # It prints the graph of an export that fails, and stdout is where a command prints its result.
    torch._C._jit_set_onnx_log_output_stream("stderr")
    try:
        with warnings.catch_warnings(), torch.no_grad(), unvalidated():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def _named_inputs(graph: Any, contract: Contract) -> Iterator[None]:
    """Have the tracer name the inputs as the contract does, so that a reader of the file can match them."""
    names = [f"{spec.name}_" if keyword.iskeyword(spec.name) else spec.name for spec in contract.observations]

    def forward(*observations: Any) -> Any:
        return type(graph).forward(graph, *observations)

    forward.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    )
    graph.forward = forward
    try:
        yield
    finally:
        del graph.forward


def _without_source_locations(archive: bytes) -> bytes:
    """The same archive less its debug records, which name the exporting machine's folders, and with stable names."""
    import torch

    reader = torch._C.PyTorchFileReader(io.BytesIO(archive))
    buffer = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(buffer)
    own = {"version", "byteorder", ".data/serialization_id", ".format_version", ".storage_alignment"}
    names = [name for name in reader.get_all_records() if name not in own and not name.endswith(".debug_pkl")]
    for name, record in number_classes({name: reader.get_record(name) for name in names}).items():
        writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    return buffer.getvalue()


def examples(contract: Contract) -> tuple[Any, ...]:
    """Zeros, as tensors: what a graph is traced with. Two rows, or as many as the contract allows."""
    import torch

    rows = min(2, contract.max_batch or 2)
    return tuple(torch.from_numpy(np.zeros((rows, *spec.shape), dtype=spec.dtype)) for spec in contract.observations)


def name_operations(model: Any) -> None:
    """Number an OpenVINO model's operations that were named by a counter, in the order in which they run."""
    for index, operation in enumerate(model.get_ordered_ops()):
        kind = operation.get_type_name()
        if re.fullmatch(rf"{kind}_\d+", operation.get_friendly_name()):
            operation.set_friendly_name(f"{kind}_{index}")


def pass_numbers(graph: Any, *, newest: Any) -> None:
    """Let this process number its next classes beyond those of the TorchScript programs that a graph holds.

    A program that was read keeps the numbers of the process that wrote it. Where
    one is a traced class's by chance, TorchScript puts both into one record.
    """
    import torch

    programs = (module for module in graph.modules() if isinstance(module, torch.jit.ScriptModule))
    ahead = max(map(_number, programs), default=0) - _number(newest)
    if ahead > 0:
        # Each traced class takes a number, but for the first of a process; a file may claim any.
        spare = (torch.nn.Identity() for _ in range(min(ahead, _MOST_PASSED) + 1))
        torch.jit.trace(torch.nn.Sequential(*spare), torch.zeros(1), check_trace=False)  # type: ignore[no-untyped-call]


def _number(program: Any) -> int:
    numbered = _MANGLED.search(program._c._type().qualified_name().encode())
    return 0 if numbered is None else int(numbered[2])


def number_classes(records: Mapping[str, bytes]) -> dict[str, bytes]:
    """The records of a TorchScript archive with its classes numbered in the order of their first appearance.

    Args:
        records: By name, in the order of the archive. Every class of the traced
            modules must have a number, which it has from the second trace on.
    """
    if any(_holds_sized_number(content) for name, content in records.items() if name.endswith(".pkl")):
        return dict(records)
    # By module and number: a class of a file that was read may have the number of a traced one elsewhere.
    numbers: dict[tuple[bytes, bytes], int] = {}

    def renumber(match: re.Match[bytes]) -> bytes:
        key = match[1].replace(b"/", b"."), match[2]
        return b"%s___torch_mangle_%d" % (match[1], numbers.setdefault(key, len(numbers)))

    code = {name: content for name, content in records.items() if name.endswith((".pkl", ".py"))}
    changed = {name: _MANGLED.sub(renumber, content) for name, content in code.items()}
    return {
        _MANGLED.sub(renumber, name.encode()).decode(): changed.get(name, content) for name, content in records.items()
    }


def _holds_sized_number(pickled: bytes) -> bool:
    """Whether a number stands in a string that a pickle gives the length of, which must not change."""
    return any(
        opcode.name != "GLOBAL" and isinstance(argument, str) and _MANGLED.search(argument.encode()) is not None
        for opcode, argument, _ in pickletools.genops(pickled)
    )
