"""Generate `config.pbtxt` from a contract, through Triton's own protobuf messages.

The text names no model (Triton takes the folder's name), so a candidate is
certified under exactly the configuration that its alias will have. It is
complete: Triton need not ask a backend to complete it, which on a Python-based
backend would cost a second start of the interpreter at every load.

Parameters that ours read and NVIDIA's native backends ignore: `contract`,
`release`, `releases`, `manifest_digest`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import text_format
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import model_config_pb2

from policyctl.domain.artifacts import BACKENDS, FILES, Format
from policyctl.domain.contract import Contract
from policyctl.domain.manifest import digest_of
from policyctl.domain.tensor import TensorSpec

_TYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
}

_OURS = frozenset({"contract", "release", "releases", "manifest_digest"})


@dataclass(frozen=True, slots=True)
class ServingOptions:
    """How a release is served; everything else follows from its contract.

    Attributes:
        max_batch_size: Largest batch that Triton forms or accepts.
        max_queue_delay_us: How long a request may wait for others to join it.
        instances: Copies of the model.
        gpu: Serve on GPUs.
        parameters: Options of the backend, by the native backend's names.
        preferred_batch_sizes: Sizes at which a batch is computed without waiting for more.
    """

    max_batch_size: int = 64
    max_queue_delay_us: int = 0
    instances: int = 1
    gpu: bool = False
    parameters: Mapping[str, str] = field(default_factory=dict)
    preferred_batch_sizes: tuple[int, ...] = ()


def render(
    contract: Contract,
    *,
    release: str,
    slot: int,
    releases: Mapping[str, str],
    manifest_digest: str,
    format: Format,  # noqa: A002
    options: ServingOptions,
) -> str:
    """The text of `config.pbtxt` for one release.

    Args:
        contract: Its inputs and outputs.
        release: Semantic version.
        slot: The one version that is served.
        releases: Slot to release, of every release of the model, so that a
            client can name the release of an answer that crossed a switch.
        manifest_digest: What the backend holds the slot against.
        format: Which artifact is served.
        options: Batching and instances.
    """
    config = model_config_pb2.ModelConfig()
    config.backend = BACKENDS[format]
    config.default_model_filename = FILES[format][0]
    config.max_batch_size = options.max_batch_size
    config.version_policy.specific.versions.append(slot)
    for spec in contract.observations:
        _tensor(config.input.add(), spec)
    for spec in contract.outputs:
        _tensor(config.output.add(), spec)
    group = config.instance_group.add()
    group.count = options.instances
    group.kind = group.KIND_GPU if options.gpu else group.KIND_CPU
    config.dynamic_batching.max_queue_delay_microseconds = options.max_queue_delay_us
    config.dynamic_batching.preferred_batch_size.extend(options.preferred_batch_sizes)
    parameters = {
        **options.parameters,
        "contract": json.dumps(contract.to_json(), sort_keys=True, separators=(",", ":")),
        "release": release,
        "releases": json.dumps(dict(releases), sort_keys=True),
        "manifest_digest": manifest_digest,
    }
    for key in sorted(parameters):
        config.parameters[key].string_value = parameters[key]
    return str(text_format.MessageToString(config))


def with_releases(text: str, releases: Mapping[str, str]) -> str:
    """`text` with another slot-to-release map; nothing that Triton computes depends on it."""
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    config.parameters["releases"].string_value = json.dumps(dict(releases), sort_keys=True)
    return str(text_format.MessageToString(config))


def max_batch_size(text: str) -> int:
    """The largest batch that Triton accepts under `text`."""
    return int(text_format.Parse(text, model_config_pb2.ModelConfig()).max_batch_size)


def options_of(text: str) -> ServingOptions:
    """The options that `render` made `text` with."""
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    group = config.instance_group[0] if config.instance_group else model_config_pb2.ModelInstanceGroup(count=1)
    parameters = {key: value.string_value for key, value in config.parameters.items() if key not in _OURS}
    return ServingOptions(
        max_batch_size=int(config.max_batch_size),
        max_queue_delay_us=int(config.dynamic_batching.max_queue_delay_microseconds),
        instances=int(group.count),
        gpu=bool(group.kind == group.KIND_GPU),
        parameters=dict(sorted(parameters.items())),
        preferred_batch_sizes=tuple(config.dynamic_batching.preferred_batch_size),
    )


def config_differences(declared: str, effective: str) -> list[tuple[str, Any, Any]]:
    """Every field of `declared` that is another in `effective`: name, declared, effective.

    What the server adds by itself (names of instance groups, defaults) is no difference.
    """
    said, used = (
        MessageToDict(text_format.Parse(text, model_config_pb2.ModelConfig()), preserving_proto_field_name=True)
        for text in (declared, effective)
    )
    return list(_differing(said, used, ""))


def _differing(said: Any, used: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(said, Mapping) and isinstance(used, Mapping):
        for key, value in said.items():
            yield from _differing(value, used.get(key), f"{name}.{key}" if name else key)
    elif isinstance(said, list) and isinstance(used, list) and len(said) == len(used):
        for index, value in enumerate(said):
            yield from _differing(value, used[index], f"{name}[{index}]")
    elif said != used:
        yield name, said, used


def identity(text: str) -> str:
    """Digest of everything in `text` that decides what is served, and how."""
    return digest_of(with_releases(text, {}).encode())


def _tensor(message: Any, spec: TensorSpec) -> None:
    message.name = spec.name
    message.data_type = model_config_pb2.DataType.Value(_TYPES[spec.dtype])
    message.dims.extend(spec.shape)
