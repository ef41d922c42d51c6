"""What every policy becomes before it is exported: a contract, a reference and a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from policyctl.domain.contract import Contract
from policyctl_exporters.head_option import Head
from policyctl_exporters.observations import Scales
from policyctl_exporters.spaces import FeatureNames

if TYPE_CHECKING:
    from torch import nn

Arrays = Mapping[str, NDArray[Any]]
Answer = Callable[[Arrays], dict[str, NDArray[Any]]]


@dataclass(frozen=True, slots=True)
class Source:
    """A policy that can be exported.

    Attributes:
        kind: ``sb3``, ``module``, ``torchscript`` or ``onnx``.
        algorithm: What trained it, or the module's class.
        contract: What it takes and gives.
        reference: From raw observations by name, each (n, *shape), to all outputs of the policy itself.
        graph: What is exported; None where `onnx` is.
        onnx: Content of the file to export; None where `graph` is.
        scales: Mean and standard deviation of an input, by tensor name, where a normaliser knows them.
        clip_obs: Where normalised observations are cut off; None without a normaliser.
        file: Name and digest of the file that it was read from.
        normalizer_file: Name and digest of the normaliser's file.
        own_rows: Raw observations that training kept, by tensor name, each (n, *spec.shape); parity runs on them too.
        trust_operators: Whether an exported TorchScript program may do more than compute.
        training: What the file, or the live algorithm, says about its training; see `training`.
        notes: What was left out, changed or assumed, in sentences.
    """

    kind: str
    algorithm: str
    contract: Contract
    reference: Answer
    graph: nn.Module | None = None
    onnx: bytes | None = None
    scales: Scales = field(default_factory=dict)
    clip_obs: float | None = None
    file: tuple[str, str] | None = None
    normalizer_file: tuple[str, str] | None = None
    own_rows: Mapping[str, NDArray[Any]] | None = None
    trust_operators: bool = False
    training: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Options:
    """What a caller says about a source; see `export_policy`."""

    observation_space: Any = None
    action_space: Any = None
    normalizer: Any = None
    trust_pickle: bool = False
    trust_operators: bool = False
    head: Head = field(default_factory=Head)
    feature_names: FeatureNames = None
    despite_archive: bool = False
    code: Path | None = None
    images: str | None = None
