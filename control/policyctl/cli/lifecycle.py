"""Commands that put a repository in order: gc, repair."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from policyctl.cli import options
from policyctl.cli.call import Call
from policyctl.errors import IntegrityError

if TYPE_CHECKING:
    from policyctl.services.releases.repair import Repaired


@options.command("wait", "repository", "url")
def gc(
    call: Call,
    model: options.OptionalModel = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", "--delete", help="Really remove; without it, only show what would be.")
    ] = False,
    rollbacks: Annotated[
        int | None, typer.Option(help="Keep so many releases to roll each alias back to. [default: 3]", min=1)
    ] = None,
    days: Annotated[
        float | None, typer.Option(help="Keep what was published or named within so many days. [default: 30]", min=0)
    ] = None,
    newest: Annotated[int | None, typer.Option(help="Keep the newest of each model. [default: 2]", min=1)] = None,
) -> None:
    """Remove the files of releases that nothing needs. A dry run unless --yes.

    Never removed: what an alias names or can be rolled back to, what a server
    has loaded, what a move needs that is under way, and what is pinned. Journal,
    evidence, signatures, manifests and model cards stay for ever.

    Examples:
        policyctl gc
        policyctl gc walker --days 7 --rollbacks 1 --yes
    """
    from policyctl.services.releases.gc import gc as service

    retention = {"rollbacks": rollbacks, "days": days, "newest": newest}
    done = service(call.control(retention=retention), model=model, delete=yes)
    rows = [(r.model, r.release, r.slot, "removed" if yes else "would be removed", "") for r in done.collect]
    rows += [(k.release.model, k.release.release, k.release.slot, "kept", "; ".join(k.reasons)) for k in done.keep]
    call.table(
        done,
        "Releases",
        ("model", "release", "slot", "what", "why"),
        sorted(rows, key=lambda r: (r[0], r[2])),
    )
    for name in done.leftovers:
        call.say(f"{'Removed' if yes else 'Would remove'} {name}, which was left over.")
    call.say(f"{done.freed_bytes} bytes {'freed' if yes else 'would be freed: policyctl gc --yes'}.")


@options.command("wait", "repository")
def repair(
    call: Call,
    model: options.OptionalModel = None,
    sources: Annotated[
        list[str] | None,
        typer.Option(
            "--from", metavar="SOURCE", help="Where intact copies may be: a folder, or oci://HOST/NAME:TAG; repeatable."
        ),
    ] = None,
    dry_run: options.DryRun = False,
) -> None:
    """Rebuild what is damaged from the journal, the manifests and intact copies.

    Configurations, folders of aliases, manifests, and every file of which an
    intact copy is known by its digest. What cannot be rebuilt is said, with what
    to do; then it exits with 3. Damaged slots are set aside, not removed.

    Examples:
        policyctl repair --dry-run
        policyctl repair walker --from build/walker --from oci://registry.example.com/policies/walker:1.4.0
    """
    from policyctl.services.releases.repair import repair as service

    control = call.control()
    done = service(control, model=model, sources=tuple(sources or ()), dry_run=dry_run)
    call.table(
        done,
        "Would repair" if dry_run else "Repaired",
        ("what", "can be", "how"),
        [(s.what, "rebuilt" if s.possible else "NOT REBUILT", s.words) for s in done.steps],
    )
    if not done.steps:
        call.say("Nothing needs repair.")
    _refuse_what_is_left(call, done)


def _refuse_what_is_left(call: Call, done: Repaired) -> None:
    impossible = [s for s in done.steps if not s.possible]
    left = [f"{f.what}: {f.detail}" for f in done.left]
    if not impossible and not left:
        return
    said = impossible[0].words if impossible else "Look at it; what belongs to nothing is never removed by itself."
    first = left[0] if left else f"{impossible[0].what} cannot be rebuilt"
    call.end_with(IntegrityError(f"not everything is intact: {first}", remedy=said))
