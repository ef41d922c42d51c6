"""What `policyctl bench --profile soak` does: load for long, and say what grows."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from policyctl.cli import options
from policyctl.cli.output import Output
from policyctl.domain.verdict import Verdict
from policyctl.errors import GateError, UsageError

if TYPE_CHECKING:
    from policyctl.services.soak import Soak
    from policyctl.settings import Settings

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)?")
_SECONDS: Final = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}
COLUMNS: Final = ("of", "counts", "per million requests", "from", "to", "limit", "verdict")


def seconds(option: str, text: str) -> float:
    """``90``, ``90s``, ``10m``, ``1.5h``, ``5ms`` in seconds.

    Raises:
        UsageError: It is none of these.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"{option} {text!r} is no length of time", remedy=f"For example {option} 10m, 90s or 5ms.")
    return float(match[1]) * _SECONDS[match[2]]


def run(
    settings: Settings,
    *,
    model: str,
    alias: str,
    duration: str,
    clients: int,
    batch: int,
    reload_every: str | None,
    move_to: str | None,
    limit_mb: float,
    as_json: bool,
) -> None:
    """Soak and print what was found.

    Raises:
        GateError: It was anything but *passed*.
    """
    from policyctl.gates.leak import Limits
    from policyctl.services import soak as service

    output = Output(as_json)
    plan = service.Plan(
        duration_s=seconds("--for", duration),
        clients=clients,
        batch_size=batch,
        reload_every_s=None if reload_every is None else seconds("--reload-every", reload_every),
        move_to=move_to,
        limits=Limits(memory_bytes=limit_mb * 1e6),
    )
    found = service.soak(options.control_of(settings, output), plan, model=model, alias=alias)
    show(output, found)
    if found.result.verdict is not Verdict.PASSED:
        raise GateError(
            f"soak of {model} {found.published.release}: {found.result.reason}",
            remedy=str(found.result.evidence.get("remedy") or "See the samples: --json, or .policyctl/evidence."),
        )


def show(output: Output, found: Soak) -> None:
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
    output.table(
        found.to_json(),
        f"soak of {found.published.model} {found.published.release}: {found.requests} requests in"
        f" {found.duration_s:.0f} s, {found.reloads} reloads, {found.moves} moves",
        COLUMNS,
        rows,
    )
    output.say(f"Gate leak: {found.result.verdict}. {found.result.reason}.")
