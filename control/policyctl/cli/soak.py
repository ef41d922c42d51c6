"""What `policyctl bench --profile soak` does: load for long, and say what grows."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from policyctl.cli.call import Call
from policyctl.domain.verdict import Verdict
from policyctl.errors import GateError, UsageError

if TYPE_CHECKING:
    from policyctl.services.experiments.soak import Soak

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)?")
_SECONDS: Final = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}
COLUMNS: Final = ("of", "counts", "per million requests", "from", "to", "limit", "verdict")


def seconds(option: str, text: str, *, example: str) -> float:
    """``90``, ``90s``, ``10m``, ``1.5h``, ``5ms`` in seconds.

    Args:
        option: Which option it is the value of.
        text: The value.
        example: One that makes sense for this option.

    Raises:
        UsageError: It is not one of these.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"{option} {text!r} is not a length of time", remedy=f"For example {option} {example}.")
    return float(match[1]) * _SECONDS[match[2]]


def run(
    call: Call,
    *,
    model: str,
    alias: str,
    duration: str,
    clients: int,
    batch: int,
    reload_every: str | None,
    move_to: str | None,
    limit_mb: float,
) -> None:
    """Soak and print what was found.

    Raises:
        GateError: It was anything but *passed*.
    """
    from policyctl.gates.leak import GrowthLimits
    from policyctl.services.experiments import soak as service

    plan = service.Plan(
        duration_s=seconds("--for", duration, example="1h"),
        clients=clients,
        batch_size=batch,
        reload_every_s=None if reload_every is None else seconds("--reload-every", reload_every, example="5m"),
        move_to=move_to,
        limits=GrowthLimits(memory_bytes=limit_mb * 1e6),
    )
    found = service.soak(call.control(), plan, model=model, alias=alias)
    show(call, found)
    if found.result.verdict is not Verdict.PASSED:
        raise GateError(
            f"soak of {model} {found.published.release}: {found.result.reason}",
            remedy=str(found.result.evidence.get("remedy") or "See the samples: --json, or .policyctl/evidence."),
        )


def show(call: Call, found: Soak) -> None:
    """A row for each series."""
    from policyctl.gates.leak import WORDS, findings_of

    rows = []
    for finding in findings_of(found.result):
        grown = finding["growth_per_million"] or {}
        unit = finding["kind"]
        scale = 1e6 if unit.endswith("bytes") else 1.0
        cells = [grown.get(key) for key in ("slope", "low", "high")] + [finding["limit_per_million"]]
        words = ["-" if cell is None else f"{cell / scale:.3g}" for cell in cells]
        verdict = WORDS[Verdict(finding["verdict"])] if finding["decides"] else "(not judged)"
        rows.append((finding["name"], unit.replace("bytes", "MB"), *words, verdict))
    call.table(
        found,
        f"soak of {found.published.model} {found.published.release}: {found.requests} requests in"
        f" {found.duration_s:.0f} s, {found.reloads} reloads, {found.moves} moves",
        COLUMNS,
        rows,
    )
    call.say(f"Gate leak: {found.result.verdict}. {found.result.reason}.")
