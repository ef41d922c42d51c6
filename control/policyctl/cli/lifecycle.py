"""Commands about the life of releases: gc, export-release, import-release, repair."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from policyctl.cli import options
from policyctl.cli.output import Output
from policyctl.errors import IntegrityError

if TYPE_CHECKING:
    from policyctl.services.repair import Repaired
    from policyctl.services.transfer import Transferred


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(gc)
    app.command("export-release")(export_release)
    app.command("import-release")(import_release)
    app.command()(repair)


def gc(
    model: options.OptionalModel = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", "--delete", help="Really remove; without it, only show what would be.")
    ] = False,
    rollbacks: Annotated[
        int | None,
        typer.Option(help="Keep so many releases to roll each alias back to. [default: 3]", min=1),
    ] = None,
    days: Annotated[
        float | None, typer.Option(help="Keep what was published or named within so many days. [default: 30]", min=0)
    ] = None,
    newest: Annotated[int | None, typer.Option(help="Keep the newest of each model. [default: 2]", min=1)] = None,
    wait: options.Wait = None,
    repository: options.RepositoryOption = None,
    url: options.UrlOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Remove the files of releases that nothing needs. A dry run unless --yes.

    Never removed: what an alias names or can be rolled back to, what a server
    has loaded, what a move needs that is under way, and what is pinned. Journal,
    evidence, signatures, manifests and model cards stay for ever.

    Examples:

        policyctl gc

        policyctl gc walker --days 7 --rollbacks 1 --yes
    """
    from policyctl.services.gc import gc as service

    output = Output(as_json, quiet)
    retention = {"rollbacks": rollbacks, "days": days, "newest": newest}
    settings = options.read_settings(repository, url, lock_wait_s=wait, retention=retention)
    done = service(options.control_of(settings, output), model=model, delete=yes)
    rows = [(r.model, r.release, r.slot, "removed" if yes else "would be removed", "") for r in done.collect]
    rows += [(k.release.model, k.release.release, k.release.slot, "kept", "; ".join(k.reasons)) for k in done.keep]
    output.table(
        done.to_json(),
        "Releases",
        ("model", "release", "slot", "what", "why"),
        sorted(rows, key=lambda r: (r[0], r[2])),
    )
    for name in done.leftovers:
        output.say(f"{'Removed' if yes else 'Would remove'} {name}, which was left over.")
    output.say(f"{done.freed_bytes} bytes {'freed' if yes else 'would be freed: policyctl gc --yes'}.")


def export_release(
    model: options.Model,
    release: options.Release,
    destination: Annotated[str, typer.Argument(help="A folder, or oci://HOST[:PORT]/NAME[:TAG].", show_default=False)],
    dry_run: options.DryRun = False,
    repository: options.RepositoryOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Write a release, with its manifest and signatures, as an OCI artifact.

    To a folder in OCI's image layout, which may hold many releases, or to a
    registry. The same release is the same artifact, byte for byte: note its
    digest, and import by it.

    Examples:

        policyctl export-release walker 1.4.0 build/releases

        policyctl export-release walker 1.4.0 oci://registry.example.com/policies/walker
    """
    from policyctl.services.transfer import export_release as service

    output = Output(as_json, quiet)
    control = options.control_of(options.read_settings(repository), output)
    done = service(control, model=model, release=release, destination=destination, dry_run=dry_run)
    _transferred(output, done, "Would export" if dry_run else "Exported", "to")


def import_release(
    source: Annotated[
        str,
        typer.Argument(help="A folder (FOLDER@MODEL:RELEASE where it holds several), or oci://HOST/NAME:TAG."),
    ],
    digest: Annotated[
        str | None, typer.Option("--digest", help="What it must hash to: the digest that export-release printed.")
    ] = None,
    dry_run: options.DryRun = False,
    wait: Annotated[
        float | None, typer.Option("--wait", help="Seconds to wait for another writer. [default: 30]", min=0)
    ] = None,
    repository: options.RepositoryOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Publish a release that was exported elsewhere: the same bytes, the same manifest.

    Every file is verified before anything is published. A download that was cut
    short goes on where it ended. Nothing is served by this.

    Examples:

        policyctl import-release build/releases@walker:1.4.0

        policyctl import-release oci://registry.example.com/policies/walker:1.4.0 --dry-run
    """
    from policyctl.services.transfer import import_release as service

    output = Output(as_json, quiet)
    control = options.control_of(options.read_settings(repository), output)
    done = service(control, source, digest=digest, dry_run=dry_run, wait_s=wait)
    verbs = {"published": "published", "restored": "brought back", "here already": "here already, nothing to publish"}
    _transferred(output, done, f"{'Would be' if dry_run else 'Imported,'} {verbs[done.done]}:", "from")
    if digest is None:
        output.say(f"No --digest was given, so it was taken as found. Next time: --digest {done.digest}")
    if not dry_run:
        output.say(f"Next: policyctl promote {done.model} {done.release}")


def repair(
    model: options.OptionalModel = None,
    sources: Annotated[
        list[str] | None,
        typer.Option("--from", help="Where intact copies may be: a folder, or oci://HOST/NAME:TAG; repeatable."),
    ] = None,
    dry_run: options.DryRun = False,
    wait: options.Wait = None,
    repository: options.RepositoryOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Rebuild what is damaged from the journal, the manifests and intact copies.

    Configurations, folders of aliases, manifests, and every file of which an
    intact copy is known by its digest. What cannot be rebuilt is said, with what
    to do; then it exits with 3. Damaged slots are set aside, not removed.

    Examples:

        policyctl repair --dry-run

        policyctl repair walker --from build/walker --from oci://registry.example.com/policies/walker:1.4.0
    """
    from policyctl.services.repair import repair as service

    output = Output(as_json, quiet)
    control = options.control_of(options.read_settings(repository, lock_wait_s=wait), output)
    done = service(control, model=model, sources=tuple(sources or ()), dry_run=dry_run)
    output.table(
        done.to_json(),
        "Would repair" if dry_run else "Repaired",
        ("what", "can be", "how"),
        [(s.what, "rebuilt" if s.possible else "NOT REBUILT", s.words) for s in done.steps],
    )
    if not done.steps:
        output.say("Nothing needs repair.")
    _refuse_what_is_left(output, done)


def _refuse_what_is_left(output: Output, done: Repaired) -> None:
    impossible = [s for s in done.steps if not s.possible]
    left = [f"{f.what}: {f.detail}" for f in done.left]
    if not impossible and not left:
        return
    said = impossible[0].words if impossible else "Look at it; what belongs to nothing is never removed by itself."
    first = left[0] if left else f"{impossible[0].what} cannot be rebuilt"
    error = IntegrityError(f"not everything is intact: {first}", remedy=said)
    if output.as_json:
        raise typer.Exit(error.exit_code)
    raise error


def _transferred(output: Output, done: Transferred, verb: str, way: str) -> None:
    output.data(
        done.to_json(),
        words=f"{verb} {done.model} {done.release} {way} {done.place}: {done.files} files, {done.size_bytes} bytes;"
        f" {done.sent} had to be carried\nArtifact {done.digest}\nManifest {done.manifest_digest}",
    )
