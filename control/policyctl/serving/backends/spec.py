"""What Triton passes to a backend about its model: the part of ``config.pbtxt`` that counts here.

Triton hands the configuration over as JSON. This module turns it into a value,
holds it against the release's contract, and reads options by the names that
NVIDIA's native backends give them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from policyctl.domain.contract import Contract
from policyctl.domain.tensor import TRITON_TYPES
from policyctl.errors import UsageError
from policyctl.sessions.ports import integer_option

_DTYPES: Final = {f"TYPE_{triton}": dtype for dtype, triton in TRITON_TYPES.items()}
_REMEDY: Final = "Let policyctl write config.pbtxt: promote the release again."


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output: name, NumPy dtype name, dims as configured."""

    name: str
    dtype: str
    dims: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model, as configured.

    Attributes:
        inputs: In the configuration's order.
        outputs: In the configuration's order.
        max_batch_size: 0 where the batch dimension, if any, stands in `dims`.
        filename: The artifact's file.
        parameters: String parameters by name.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    max_batch_size: int
    filename: str
    parameters: Mapping[str, str]

    @classmethod
    def from_json(cls, text: str, *, default_filename: str) -> ModelSpec:
        """Read what Triton passes as ``model_config``.

        Args:
            text: JSON.
            default_filename: Where ``default_model_filename`` is not set.

        Raises:
            UsageError: A data type that no contract has.
        """
        config = json.loads(text)
        parameters = {name: str(value.get("string_value", "")) for name, value in config.get("parameters", {}).items()}
        return cls(
            inputs=tuple(_port(item) for item in config["input"]),
            outputs=tuple(_port(item) for item in config["output"]),
            max_batch_size=int(config.get("max_batch_size", 0)),
            filename=config.get("default_model_filename") or default_filename,
            parameters=parameters,
        )

    def required(self, parameter: str) -> str:
        """A parameter without which nothing is loaded.

        Raises:
            UsageError: It is not set.
        """
        value = self.parameters.get(parameter, "")
        if not value:
            raise UsageError(f"config.pbtxt sets no parameter {parameter!r}", remedy=_REMEDY)
        return value

    def integer(self, parameter: str, default: int) -> int:
        """A whole number that an operator may set.

        Raises:
            UsageError: It is set to something else.
        """
        return integer_option(self.parameters, parameter, default)

    def shape_of(self, port: Port) -> tuple[int, ...]:
        """Shape of one item; a dimension of -1 may be anything.

        Raises:
            UsageError: With ``max_batch_size: 0`` the dims do not begin with -1.
        """
        if self.max_batch_size > 0:
            return port.dims
        if not port.dims or port.dims[0] != -1:
            raise UsageError(
                f"config.pbtxt: with max_batch_size 0 the dims of {port.name} must begin with -1,"
                f" found {list(port.dims)}",
                remedy=_REMEDY,
            )
        return port.dims[1:]


def check_contract(spec: ModelSpec, contract: Contract) -> None:
    """Hold the configuration against the contract that stands in the release.

    Names, types, shapes and order all have to be the same: an artifact whose
    tensors are known by position only would otherwise take one observation
    for another and give no sign of it.

    Raises:
        UsageError: They differ; names the first difference. Or the contract
            that clients are shown is not the release's.
    """
    for kind, ports, wanted in (
        ("inputs", spec.inputs, contract.observations),
        ("outputs", spec.outputs, contract.outputs),
    ):
        have = [(port.name, port.dtype, spec.shape_of(port)) for port in ports]
        want = [(tensor.name, tensor.dtype, tensor.shape) for tensor in wanted]
        if have != want:
            raise UsageError(
                f"config.pbtxt has {kind} {_text(have)}, the release's contract says {_text(want)}",
                remedy=_REMEDY,
            )
    if contract.max_batch is not None and spec.max_batch_size not in range(1, contract.max_batch + 1):
        raise UsageError(
            f"config.pbtxt has max_batch_size {spec.max_batch_size}, the contract allows {contract.max_batch} rows",
            remedy=_REMEDY,
        )
    shown = spec.parameters.get("contract", "")
    if shown and json.loads(shown) != json.loads(json.dumps(contract.to_json())):
        raise UsageError("config.pbtxt: parameter 'contract' is not the contract of the release", remedy=_REMEDY)


def _port(item: Mapping[str, Any]) -> Port:
    name, type_ = str(item["name"]), str(item["data_type"])
    if type_ not in _DTYPES:
        raise UsageError(f"config.pbtxt: {name} is {type_}, which no contract has", remedy=_REMEDY)
    # A reshape is what the artifact sees; policyctl never writes one.
    if item.get("reshape", {}).get("shape"):
        raise UsageError(f"config.pbtxt: {name} has a reshape, which is not served", remedy=_REMEDY)
    return Port(name, _DTYPES[type_], tuple(int(d) for d in item["dims"]))


def _text(ports: list[tuple[str, str, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name} {dtype}{list(shape)}" for name, dtype, shape in ports) or "none"
