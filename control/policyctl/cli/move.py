"""Commands that move an alias: promote, rollback, abort; and those that add and remove one: pin, unpin, unserve.

Each builds one request, which is carried out here, or through the control API that `--api` names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from policyctl.cli import completion, options
from policyctl.cli.call import Call
from policyctl.cli.values import seconds
from policyctl.domain.bake import Then
from policyctl.domain.choices import LONGEST_DRAIN_S
from policyctl.domain.names import PRODUCTION
from policyctl.errors import UsageError

if TYPE_CHECKING:
    from policyctl.services.rollout.request import Wanted


@options.command("wait", "repository", "url")
def promote(
    call: Call,
    model: options.Model,
    release: options.Release,
    alias: options.Alias = PRODUCTION,
    format: options.ServedFormat = None,  # noqa: A002
    reason: options.Reason = "",
    gates: options.Gates = None,
    bake: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0,
            help="Watch it so long after the switch, and roll back by itself. [env: POLICYCTL_BAKE__FOR_S]",
        ),
    ] = None,
    no_bake: Annotated[
        bool, typer.Option("--no-bake", help="Do not watch it; a bake of this release that is under way is ended.")
    ] = False,
    on_inconclusive: Annotated[
        Then | None, typer.Option(help="For a bake that saw too little. [env: POLICYCTL_BAKE__ON_INCONCLUSIVE]")
    ] = None,
    breaking: Annotated[
        bool, typer.Option("--breaking", help="Promote a release whose contract breaks that of the one it replaces.")
    ] = False,
    drain: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="Keep the release before reachable so long at most, for episodes that began on it; 0 for not."
            " [default: 30s where it has memory; env: POLICYCTL_DRAIN_S]",
        ),
    ] = None,
    dry_run: options.DryRun = False,
) -> None:
    """Move an alias to a release without losing a request.

    The release is loaded next to the incumbent and must answer its golden set
    on that very server. Only then is the alias switched and asked again. If
    anything fails, the incumbent keeps serving. With --gates it is measured
    first, and only moved if it passes. With --bake it is watched afterwards:
    what fails more, is slower or answers wrongly is rolled back (exit code 7).

    A release that clients of the incumbent cannot ask unchanged is refused
    without --breaking (exit code 4); --dry-run shows what differs.

    Examples:
        policyctl promote walker 1.1.0 --reason "better on stairs"
        policyctl promote walker ^1.1 --alias staging --dry-run
        policyctl promote walker staging
        policyctl promote walker 1.1.0 --gates service_level,non_inferiority
        policyctl promote walker 1.1.0 --bake 300 --on-inconclusive keep
        policyctl promote walker 1.2.0 --drain 60s
        policyctl promote walker 2.0.0 --breaking --reason "all robots have the fourth sensor"
    """
    if no_bake and bake:
        raise UsageError("--bake and --no-bake are given", remedy="Give one of them.")
    from policyctl.services.rollout.request import BakeRequest, PromotionRequest

    asks = no_bake or bake is not None or on_inconclusive is not None
    wanted = PromotionRequest(
        release=release,
        alias=alias,
        format=format,
        reason=reason,
        gates=options.gate_names(gates),
        bake=BakeRequest(for_s=bake, on_inconclusive=on_inconclusive, end=no_bake) if asks else None,
        breaking=breaking,
        drain_s=_drain(drain),
        dry_run=dry_run,
        lock_wait_s=call.wait,
    )
    _carry_out(call, model, wanted)


@options.command("wait", "repository", "url")
def rollback(
    call: Call,
    model: options.Model,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="RELEASE",
            autocompletion=completion.releases,
            help="The release to go back to, or what selects one (~1.2.0). [default: the one before]",
        ),
    ] = None,
    alias: options.Alias = PRODUCTION,
    reason: options.Reason = "",
    drain: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="Keep the release that is left reachable so long at most, for episodes that began on it."
            " [default: not at all]",
        ),
    ] = None,
    dry_run: options.DryRun = False,
) -> None:
    """Move an alias back to an earlier release. No gate is asked.

    Examples:
        policyctl rollback walker --reason "falls on ice"
        policyctl rollback walker --to 0.9.2
        policyctl rollback walker --drain 30s
    """
    from policyctl.services.rollout.request import RollbackRequest

    wanted = RollbackRequest(
        to=to, alias=alias, reason=reason, drain_s=_drain(drain), dry_run=dry_run, lock_wait_s=call.wait
    )
    _carry_out(call, model, wanted)


def _drain(text: str | None) -> float | None:
    """How long a drain lasts at most, in seconds; None where nobody said."""
    if text is None:
        return None
    if (drain_s := seconds("--drain", text, example="30s", or_none=True)) > LONGEST_DRAIN_S:
        raise UsageError(f"--drain {text} is longer than an hour", remedy="Pin the release instead: policyctl pin")
    return drain_s


@options.command("repository", "url")
def abort(call: Call, model: options.Model) -> None:
    """Stop the move that is under way, or revert one that a crash left open.

    Before the switch a move is reverted; after it, use rollback.

    Example:
        policyctl abort walker
    """
    from policyctl.services.rollout.request import AbortRequest

    _carry_out(call, model, AbortRequest())


@options.command("wait", "repository", "url")
def pin(
    call: Call,
    model: options.Model,
    release: options.Release,
    format: options.ServedFormat = None,  # noqa: A002
    reason: options.Reason = "",
    gates: options.Gates = None,
    dry_run: options.DryRun = False,
) -> None:
    """Serve a release under its own number, whatever other aliases name.

    It is certified and journalled like a promotion. Clients ask the Triton
    model MODEL.RELEASE: PolicyClient("walker", alias="1.2.0"). What does not
    fit in memory is refused before anything is touched.

    Examples:
        policyctl pin walker 1.2.0 --reason "robot 7 was tuned on it"
        policyctl pin walker production --dry-run
    """
    from policyctl.services.rollout.request import PinRequest

    wanted = PinRequest(
        release=release,
        format=format,
        reason=reason,
        gates=options.gate_names(gates),
        dry_run=dry_run,
        lock_wait_s=call.wait,
    )
    _carry_out(call, model, wanted)


@options.command("wait", "repository", "url")
def unpin(
    call: Call,
    model: options.Model,
    release: options.Release,
    reason: options.Reason = "",
    dry_run: options.DryRun = False,
) -> None:
    """Take a pinned release out of service. It stays published, and aliases that name it stay.

    Examples:
        policyctl unpin walker 1.2.0 --dry-run
        policyctl unpin walker 1.2.0
    """
    from policyctl.services.rollout.request import UnpinRequest

    wanted = UnpinRequest(release=release, reason=reason, dry_run=dry_run, lock_wait_s=call.wait)
    _carry_out(call, model, wanted)


@options.command("wait", "repository", "url")
def unserve(
    call: Call,
    model: options.Model,
    alias: Annotated[
        str,
        typer.Option("--alias", "-a", help="Which alias, or the number of a pin.", autocompletion=completion.aliases),
    ],
    reason: options.Reason = "",
    dry_run: options.DryRun = False,
) -> None:
    """Take an alias out of service. Its clients get the error that it is not served.

    What is under way is answered. Nothing is unpublished; promote again to
    serve it again. There is no default for --alias: production is named, too.

    Examples:
        policyctl unserve walker --alias staging
        policyctl unserve walker --alias production --reason "retired" --dry-run
    """
    from policyctl.services.rollout.request import RemovalRequest

    wanted = RemovalRequest(alias=alias, reason=reason, dry_run=dry_run, lock_wait_s=call.wait)
    _carry_out(call, model, wanted)


def _carry_out(call: Call, model: str, wanted: Wanted) -> None:
    """Have a request carried out, here or by URL, and print what was done."""
    from policyctl.services.rollout.request import AliasRequest

    request = AliasRequest(model, wanted)
    if (remote := call.elsewhere()) is not None:
        done = remote.carry_out(request)
    else:
        from policyctl.services.rollout.here import carry_out

        done = carry_out(call.control(), request)
    call.data(done.result, words=done.words)
    if done.refusal is not None:
        call.end_with(done.refusal)
