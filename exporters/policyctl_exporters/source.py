"""What every policy becomes before it is exported: a contract, a reference and a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.contract import Contract
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
        scales: Mean and standard deviation of an input, by tensor name, where known.
        clip_obs: Where normalised observations are cut off; None without a normaliser.
        file: Name and digest of the file that it was read from.
        normalizer_file: Name of the normaliser's file.
        training: What the file, or the live algorithm, tells about its training; see `training`.
    """

    kind: str
    algorithm: str
    contract: Contract
    reference: Answer
    graph: nn.Module | None = None
    onnx: bytes | None = None
    scales: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]] | None = None
    clip_obs: float | None = None
    file: tuple[str, str] | None = None
    normalizer_file: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Options:
    """What a caller says about a source; see `export_policy`."""

    observation_space: Any = None
    action_space: Any = None
    normalizer: Any = None
    trust_pickle: bool = False
    head: str | None = None
    feature_names: FeatureNames = None
