"""Commands that move an alias: promote, rollback, abort; and those that add and remove one: pin, unpin, unserve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policyctl.cli import options
from policyctl.cli.output import Output
from policyctl.domain.artifacts import Format
from policyctl.domain.bake import Then
from policyctl.domain.names import PRODUCTION
from policyctl.errors import PolicyctlError, UsageError

if TYPE_CHECKING:
    from policyctl.domain.operations import Done
    from policyctl.services.promote import Moved


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(promote)
    app.command()(rollback)
    app.command()(abort)
    app.command()(pin)
    app.command()(unpin)
    app.command()(unserve)


def promote(
    model: options.Model,
    release: options.Release,
    alias: options.Alias = PRODUCTION,
    format: Annotated[  # noqa: A002
        Format | None, typer.Option("--format", "-f", help="Which artifact to serve. [default: openvino if there]")
    ] = None,
    reason: options.Reason = "",
    gates: options.Gates = None,
    bake: Annotated[
        float | None,
        typer.Option(
            "--bake",
            metavar="SECONDS",
            min=0,
            help="Watch it so long after the switch, and roll back by itself. [env: POLICYCTL_BAKE__FOR_S]",
        ),
    ] = None,
    no_bake: Annotated[
        bool, typer.Option("--no-bake", help="Do not watch it; a bake of this release that is under way is ended.")
    ] = False,
    on_inconclusive: Annotated[
        Then | None,
        typer.Option(help="For a bake that saw too little. [env: POLICYCTL_BAKE__ON_INCONCLUSIVE]"),
    ] = None,
    dry_run: options.DryRun = False,
    wait: options.Wait = None,
    repository: options.RepositoryOption = None,
    url: options.UrlOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Move an alias to a release without losing a request.

    The release is loaded beside the incumbent, must answer its golden set on
    that very server, and only then is the alias switched and asked again. If
    anything fails, the incumbent keeps serving. With --gates it is measured
    first, and only moved if it passes. With --bake it is watched afterwards:
    what fails more, is slower or answers wrongly is rolled back (exit code 7).

    Examples:

        policyctl promote walker 1.1.0 --reason "better on stairs"

        policyctl promote walker ^1.1 --alias staging --dry-run

        policyctl promote walker staging

        policyctl promote walker 1.1.0 --gates service_level,non_inferiority

        policyctl promote walker 1.1.0 --bake 300 --on-inconclusive keep
    """
    if no_bake and bake:
        raise UsageError("--bake and --no-bake are given", remedy="Give one of them.")
    output = Output(as_json, quiet)
    chosen = None if gates is None else options.gate_names(gates)
    if (remote := options.remote(output, repository=repository, url=url)) is not None:
        asks = no_bake or bake is not None or on_inconclusive is not None
        told = remote.move(
            "promotions",
            model=model,
            release=release,
            alias=alias,
            format=format,
            reason=reason,
            dry_run=dry_run,
            gates=chosen,
            lock_wait_s=wait,
            bake={"for_s": bake, "on_inconclusive": on_inconclusive, "end": no_bake} if asks else None,
        )
        _pass_on(output, told)
        return
    from policyctl.services import promote as service

    baking = {"for_s": 0.0 if no_bake else bake, "on_inconclusive": on_inconclusive}
    settings = options.read_settings(repository, url, lock_wait_s=wait, bake=baking)
    control = options.control_of(settings, output)
    moved = service.promote(
        control,
        model=model,
        release=release,
        alias=alias,
        format=format,
        reason=reason,
        dry_run=dry_run,
        gates=chosen,
        bake=not no_bake,
    )
    _report(output, moved)


def rollback(
    model: options.Model,
    to: Annotated[
        str | None,
        typer.Option("--to", help="The release to go back to, or what selects one (~1.2.0). [default: the one before]"),
    ] = None,
    alias: options.Alias = PRODUCTION,
    reason: options.Reason = "",
    dry_run: options.DryRun = False,
    wait: options.Wait = None,
    repository: options.RepositoryOption = None,
    url: options.UrlOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Move an alias back to an earlier release. No gate is asked.

    Examples:

        policyctl rollback walker --reason "falls on ice"

        policyctl rollback walker --to 0.9.2
    """
    output = Output(as_json, quiet)
    if (remote := options.remote(output, repository=repository, url=url)) is not None:
        told = remote.move(
            "rollbacks", model=model, alias=alias, to=to, reason=reason, dry_run=dry_run, lock_wait_s=wait
        )
        _pass_on(output, told)
        return
    from policyctl.services import promote as service

    control = options.control_of(options.read_settings(repository, url, lock_wait_s=wait), output)
    _report(output, service.rollback(control, model=model, alias=alias, to=to, reason=reason, dry_run=dry_run))


def abort(
    model: options.Model,
    repository: options.RepositoryOption = None,
    url: options.UrlOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Stop the move that is under way, or revert one that a crash left open.

    Before the switch a move is reverted; after it, use rollback.

    Example:

        policyctl abort walker
    """
    output = Output(as_json, quiet)
    if (remote := options.remote(output, repository=repository, url=url)) is not None:
        told = remote.move("aborts", model=model)
        _pass_on(output, told)
        return
    from policyctl.services import promote as service

    words = service.abort(options.control_of(options.read_settings(repository, url), output), model=model)
    output.data({"model": model, "result": words}, words=words)


def pin(
    model: options.Model,
    release: options.Release,
    format: Annotated[  # noqa: A002
        Format | None, typer.Option("--format", "-f", help="Which artifact to serve. [default: openvino if there]")
    ] = None,
    reason: options.Reason = "",
    gates: options.Gates = None,
    dry_run: options.DryRun = False,
    wait: options.Wait = None,
    repository: options.RepositoryOption = None,
    url: options.UrlOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Serve a release under its own number, whatever other aliases name.

    It is certified and journalled like a promotion. Clients ask the Triton
    model MODEL.RELEASE: PolicyClient("walker", alias="1.2.0"). What does not
    fit in memory is refused before anything is touched.

    Examples:

        policyctl pin walker 1.2.0 --reason "robot 7 was tuned on it"

        policyctl pin walker production --dry-run
    """
    output = Output(as_json, quiet)
    chosen = None if gates is None else options.gate_names(gates)
    if (remote := options.remote(output, repository=repository, url=url)) is not None:
        told = remote.move(
            "pins",
            model=model,
            release=release,
            format=format,
            reason=reason,
            dry_run=dry_run,
            gates=chosen,
            lock_wait_s=wait,
        )
        _pass_on(output, told)
        return
    from policyctl.services import pins as service

    control = options.control_of(options.read_settings(repository, url, lock_wait_s=wait), output)
    moved = service.pin(
        control, model=model, release=release, format=format, reason=reason, dry_run=dry_run, gates=chosen
    )
    _report(output, moved)


def unpin(
    model: options.Model,
    release: options.Release,
    reason: options.Reason = "",
    dry_run: options.DryRun = False,
    wait: options.Wait = None,
    repository: options.RepositoryOption = None,
    url: options.UrlOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Take a pinned release out of service. It stays published, and aliases that name it stay.

    Examples:

        policyctl unpin walker 1.2.0

        policyctl unpin walker 1.2.0 --dry-run
    """
    output = Output(as_json, quiet)
    if (remote := options.remote(output, repository=repository, url=url)) is not None:
        told = remote.move("unpins", model=model, release=release, reason=reason, dry_run=dry_run, lock_wait_s=wait)
        _pass_on(output, told)
        return
    from policyctl.services import pins as service

    control = options.control_of(options.read_settings(repository, url, lock_wait_s=wait), output)
    _report(output, service.unpin(control, model=model, release=release, reason=reason, dry_run=dry_run))


def unserve(
    model: options.Model,
    alias: Annotated[
        str, typer.Option("--alias", "-a", help="Which alias, or the number of a pin.", show_default=False)
    ],
    reason: options.Reason = "",
    dry_run: options.DryRun = False,
    wait: options.Wait = None,
    repository: options.RepositoryOption = None,
    url: options.UrlOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Take an alias out of service. Its clients are told that it is not served.

    What is under way is answered. Nothing is unpublished; promote again to
    serve it again. There is no default for --alias: production is named, too.

    Examples:

        policyctl unserve walker --alias staging

        policyctl unserve walker --alias production --reason "retired" --dry-run
    """
    output = Output(as_json, quiet)
    if (remote := options.remote(output, repository=repository, url=url)) is not None:
        told = remote.move("removals", model=model, alias=alias, reason=reason, dry_run=dry_run, lock_wait_s=wait)
        _pass_on(output, told)
        return
    from policyctl.services import pins as service

    control = options.control_of(options.read_settings(repository, url, lock_wait_s=wait), output)
    _report(output, service.unserve(control, model=model, alias=alias, reason=reason, dry_run=dry_run))


def _report(output: Output, moved: Moved) -> None:
    if moved.recovered:
        output.say(moved.recovered.words)
    _print(output, moved.to_json(), moved.words, moved.refusal)


def _pass_on(output: Output, told: Done) -> None:
    _print(output, told.result, told.words, told.refusal)


def _print(output: Output, document: Mapping[str, Any], words: str, refusal: PolicyctlError | None) -> None:
    output.data(document, words=words)
    if refusal is not None:
        if output.as_json:
            raise typer.Exit(refusal.exit_code)
        raise refusal
