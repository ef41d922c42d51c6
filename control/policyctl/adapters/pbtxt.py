"""Generate `config.pbtxt` from a contract, through Triton's own protobuf messages.

The text names no model (Triton takes the folder's name), so a candidate is
certified under exactly the configuration that its alias will have. It is
complete: Triton need not ask a backend to complete it, which on a Python-based
backend would cost a second start of the interpreter at every load.

Parameters that ours read and NVIDIA's native backends ignore: `contract`,
`release`, `releases`, `manifest_digest`, `generation`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from policyctl.domain.artifacts import BACKENDS, FILES, Format
from policyctl.domain.contract import Contract
from policyctl.domain.manifest import digest_of
from policyctl.domain.tensor import TRITON_TYPES
from policyctl.errors import IntegrityError, UsageError

_OURS = frozenset({"contract", "release", "releases", "manifest_digest", "generation"})


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
    generation: int = 0,
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
        generation: Of the alias in a fleet, which every answer names; 0 where no fleet is followed.
    """
    options = within(options, contract)
    config = _parsed("")
    config.backend = BACKENDS[format]
    config.default_model_filename = FILES[format][0]
    config.max_batch_size = options.max_batch_size
    config.version_policy.specific.versions.append(slot)
    for tensors, specs in ((config.input, contract.observations), (config.output, contract.outputs)):
        for spec in specs:
            tensors.add(name=spec.name, data_type=f"TYPE_{TRITON_TYPES[spec.dtype]}", dims=spec.shape)
    config.instance_group.add(count=options.instances, kind="KIND_GPU" if options.gpu else "KIND_CPU")
    config.dynamic_batching.max_queue_delay_microseconds = options.max_queue_delay_us
    config.dynamic_batching.preferred_batch_size.extend(options.preferred_batch_sizes)
    parameters = {
        **options.parameters,
        "contract": json.dumps(contract.to_json(), sort_keys=True, separators=(",", ":")),
        "release": release,
        "releases": json.dumps(dict(releases), sort_keys=True),
        "manifest_digest": manifest_digest,
    }
    if generation:
        parameters["generation"] = str(generation)
    for key in sorted(parameters):
        config.parameters[key].string_value = parameters[key]
    return text_of(config)


def within(options: ServingOptions, contract: Contract) -> ServingOptions:
    """`options` with batches that are no larger than the contract allows."""
    limit = contract.max_batch
    if limit is None or options.max_batch_size <= limit:
        return options
    preferred = tuple(size for size in options.preferred_batch_sizes if size <= limit)
    return replace(options, max_batch_size=limit, preferred_batch_sizes=preferred)


def with_releases(text: str, releases: Mapping[str, str]) -> str:
    """`text` with another slot-to-release map; nothing that Triton computes depends on it."""
    config = _parsed(text)
    config.parameters["releases"].string_value = json.dumps(dict(releases), sort_keys=True)
    return text_of(config)


def with_generation(text: str, generation: int) -> str:
    """`text` with another generation of its alias, or none for 0; nothing else depends on it."""
    config = _parsed(text)
    if "generation" in config.parameters:
        del config.parameters["generation"]
    if generation:
        config.parameters["generation"].string_value = str(generation)
    return text_of(config)


def max_batch_size(text: str) -> int:
    """The largest batch that Triton accepts under `text`."""
    return int(_parsed(text).max_batch_size)


@functools.lru_cache(256)
def generation_of(text: str) -> int:
    """The generation that `render` made `text` with; 0 for none."""
    config = _parsed(text)
    return int(config.parameters["generation"].string_value) if "generation" in config.parameters else 0


def contract_of(text: str) -> Contract:
    """The contract that `render` made `text` with.

    Raises:
        IntegrityError: It holds none.
    """
    config = _parsed(text)
    try:
        return Contract.from_json(json.loads(config.parameters["contract"].string_value))
    except (ValueError, UsageError) as error:
        raise IntegrityError(f"a configuration holds no contract that can be read ({error})") from error


def options_of(text: str) -> ServingOptions:
    """The options that `render` made `text` with."""
    config = _parsed(text)
    group = config.instance_group[0] if config.instance_group else config.instance_group.add(count=1)
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

    What the server adds by itself (names of instance groups, defaults) does not count.
    """
    from google.protobuf.json_format import MessageToDict

    ours, served = (MessageToDict(_parsed(text), preserving_proto_field_name=True) for text in (declared, effective))
    return list(_differing(ours, served, ""))


def text_of(config: Any) -> str:
    """A configuration as Triton reads it from a file."""
    from google.protobuf import text_format

    return str(text_format.MessageToString(config))


def _parsed(text: str) -> Any:
    """The protobuf message; imported late, because most commands read no configuration."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    return text_format.Parse(text, model_config_pb2.ModelConfig())


def _differing(ours: Any, served: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(ours, Mapping) and isinstance(served, Mapping):
        for key, value in ours.items():
            yield from _differing(value, served.get(key), f"{name}.{key}" if name else key)
    elif isinstance(ours, list) and isinstance(served, list) and len(ours) == len(served):
        for index, value in enumerate(ours):
            yield from _differing(value, served[index], f"{name}[{index}]")
    elif ours != served:
        yield name, ours, served


def identity(text: str) -> str:
    """Digest of everything in `text` that decides what is served, and how."""
    return digest_of(with_releases(text, {}).encode())
