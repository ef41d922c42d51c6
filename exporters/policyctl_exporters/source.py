"""What every policy becomes before it is exported: a contract, a reference and a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from numpy.typing import NDArray

from policyctl.domain.contract import Contract
from policyctl.errors import UsageError
from policyctl_exporters.observations import Scales
from policyctl_exporters.spaces import FeatureNames

if TYPE_CHECKING:
    from torch import nn

Arrays = Mapping[str, NDArray[Any]]
Answer = Callable[[Arrays], dict[str, NDArray[Any]]]

HEADS: Final = ("action", "logits", "q_values", "mean")
"""What an action can be made of."""

FURTHER: Final = "output"
"""Nothing that the action depends on: kept under its own name."""

_KINDS: Final = (*HEADS, "log_std", FURTHER)
HeadOption = str | Sequence[str] | Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class Source:
    """A policy that can be exported.

    Attributes:
        kind: ``sb3``, ``module``, ``torchscript``, ``pt2``, ``rsl_rl``, ``leapp`` or ``onnx``.
        algorithm: What trained it, or the module's class.
        reference: From raw observations by name, each (n, *shape), to all outputs of the policy itself.
        graph: What is exported; None where `onnx` is.
        onnx: Content of the file to export; None where `graph` is.
        clip_obs: Where normalised observations are cut off; None without a normaliser.
        file: Name and digest of the file that it was read from; `normalizer_file` likewise.
        own_rows: Raw observations that training kept, by tensor name, each (n, *spec.shape); parity runs on them too.
        trust_operators: Whether an exported TorchScript program may do more than compute.
        training: What the file, or the live algorithm, says about its training; see `archive_file`.
        metadata: What an ONNX file says next to its graph, text by key.
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
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Head:
    """What outputs are.

    Attributes:
        bare: What the only output is, or of an ONNX file the first; empty where nothing is said.
        named: What outputs are, by their names in the policy.
    """

    bare: str = ""
    named: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether anything is said."""
        return bool(self.bare or self.named)

    @classmethod
    def of(cls, option: HeadOption) -> Head:
        """Read the option as Python takes it, or the command line: any number of ``KIND`` and ``NAME=KIND``."""
        if option is None or isinstance(option, str):
            option = [option] if option else []
        pairs = list(option.items()) if isinstance(option, Mapping) else [_pair(text) for text in option]
        for name, kind in pairs:
            if kind not in (HEADS if not name else _KINDS):
                raise UsageError(
                    f"head {f'{name}={kind}' if name else kind!r} is not known",
                    remedy=f"Use one of {', '.join(HEADS)}, or NAME=KIND with one of {', '.join(_KINDS)}.",
                )
        single = [kind for _, kind in pairs if kind != FURTHER]
        if len({name for name, _ in pairs}) != len(pairs) or len(set(single)) != len(single):
            shown = ", ".join(f"{name}={kind}" if name else kind for name, kind in pairs)
            raise UsageError(f"heads {shown} name an output or a kind twice", remedy="Name each output and kind once.")
        named = {name: kind for name, kind in pairs if name}
        return cls(bare=dict(pairs).get("", ""), named=named)

    def require(self, outputs: Sequence[str]) -> None:
        """Raises: UsageError: An output is named that the policy does not have."""
        if unknown := sorted(self.named.keys() - set(outputs)):
            raise UsageError(
                f"head names {', '.join(unknown)}, the policy gives {', '.join(outputs)}",
                remedy="Name an output as the policy does.",
            )


def _pair(text: str) -> tuple[str, str]:
    name, _, kind = text.rpartition("=")
    return name, kind


@dataclass(frozen=True, slots=True)
class Options:
    """What a caller says about a source; see `export_policy`."""

    observation_space: Any = None
    action_space: Any = None
    normalizer: Any = None
    despite_archive: bool = False
    images: str | None = None
    trust_pickle: bool = False
    code: Path | None = None
    trust_operators: bool = False
    head: Head = field(default_factory=Head)
    states: Mapping[str, str] | None = None
    feature_names: FeatureNames = None
    runner: Path | None = None

    @classmethod
    def of(
        cls,
        *,
        head: HeadOption = None,
        code: str | Path | None = None,
        runner: str | Path | None = None,
        **others: Any,
    ) -> Options:
        """The options as `export_policy` takes them."""
        code, runner = (None if path is None else Path(path) for path in (code, runner))
        return cls(head=Head.of(head), code=code, runner=runner, **others)
