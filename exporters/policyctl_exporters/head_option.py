"""What somebody says about a policy's outputs: ``logits``, or ``scores=logits`` where it has several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from policyctl.errors import UsageError

HEADS: Final = ("action", "logits", "q_values", "mean")
"""What an action can be made of."""

FURTHER: Final = "output"
"""Nothing that the action depends on: kept under its own name."""

_KINDS: Final = (*HEADS, "log_std", FURTHER)

HeadOption = str | Sequence[str] | Mapping[str, str] | None


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
        """Read the option as Python takes it, or the command line: any number of ``KIND`` and ``NAME=KIND``.

        Raises:
            UsageError: An unknown kind, two outputs of one kind, or two kinds for one output.
        """
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
