"""Commands about one release: its number, and its way to another repository: release next, export, import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyctl.cli import completion, options
from policyctl.cli.call import Call
from policyctl.errors import UsageError

if TYPE_CHECKING:
    from policyctl.services.control import Control
    from policyctl.services.releases.transfer import Transferred

group = typer.Typer(
    help="""Propose a release's number; export and import releases.

    Examples:
        policyctl release next walker build/walker
        policyctl release export walker 1.4.0 build/releases
        policyctl release import build/releases@walker:1.4.0
    """,
)


@group.command("next")
@options.command("repository")
def next_(
    call: Call,
    model: options.Model,
    source: options.ExportFolder,
    after: Annotated[
        str | None,
        typer.Option(
            metavar="RELEASE",
            autocompletion=completion.releases,
            help="The release to follow, or what selects it (~1.2.0). [default: latest]",
        ),
    ] = None,
    prerelease: Annotated[
        str, typer.Option("--pre", metavar="NAME", help="Propose a pre-release of this name, for example rc.")
    ] = "",
) -> None:
    """Propose the number under which an export can be published, with the reasons. Nothing is changed.

    Its contract is compared with that of the highest release (or of --after,
    for a patch of an older line), and each difference is listed with the bump
    that it needs.

    Examples:
        policyctl release next walker build/walker
        policyctl release next walker build/walker --after ~1.2.0
        policyctl release next walker build/walker --pre rc --json
    """
    from policyctl.services.releases import numbers as service

    control = call.control()
    found = service.next_release(control, source, model=model, after=after, prerelease=prerelease)
    proposal = found.proposal
    call.data(found, words=found.release)
    if found.published_as is not None:
        call.say(f"These very bytes are published as {model} {found.published_as}.")
    if found.release == found.published_as:
        call.say("To publish them again changes nothing.")
        return
    if proposal.after is None:
        call.say(f"No release of {model} is published that it could be compared with.")
    elif not proposal.differences:
        call.say(f"Its contract is that of {proposal.after}: {proposal.needs} will do.")
    else:
        call.say(f"Against {proposal.after} it needs {proposal.needs}:")
        for difference in proposal.differences:
            call.say(f"  {difference.words}")
    call.say(f"Next: policyctl publish {source} --model {model} --release {found.release}")


@group.command("export")
@options.command("repository")
def export_release(
    call: Call,
    model: options.Model,
    release: options.Release,
    destination: Annotated[str, typer.Argument(help="A folder, oci://HOST[:PORT]/NAME[:TAG], or a bucket.")],
    leapp: Annotated[
        bool, typer.Option("--leapp", help="Write a LEAPP bundle of one node to a new folder instead.")
    ] = False,
    dry_run: options.DryRun = False,
) -> None:
    """Write a release, with its manifest and signatures, as an OCI artifact.

    To a folder in OCI's image layout, which may hold many releases, to a
    registry, or to a bucket (s3://, gs://, az://, file://). The same release is
    the same artifact, byte for byte: note its digest, and import by it.

    --leapp writes the ONNX or TorchScript artifact as LEAPP's runtime takes it:
    the model, a description, and what the states of an episode begin with. The
    description has the whole contract, which `policyctl export` takes back.

    Examples:
        policyctl release export walker 1.4.0 build/releases
        policyctl release export walker 1.4.0 build/leapp --leapp
        policyctl release export walker 1.4.0 oci://registry.example.com/policies/walker
    """
    from policyctl.services.releases.transfer import export_release as service

    control = call.control()
    if leapp:
        _export_leapp(call, control, model, release, destination, dry_run=dry_run)
        return
    done = service(control, model=model, release=release, destination=destination, dry_run=dry_run)
    _transferred(call, done, "Would export" if dry_run else "Exported", "to")


def _export_leapp(call: Call, control: Control, model: str, release: str, destination: str, *, dry_run: bool) -> None:
    from policyctl.services.releases.copies import is_remote
    from policyctl.services.releases.leapp import export_leapp

    if is_remote(destination):
        raise UsageError(
            f"{destination} is not on this machine, and a LEAPP bundle is a folder", remedy="Name a new folder."
        )
    done = export_leapp(control, model=model, release=release, destination=Path(destination), dry_run=dry_run)
    memory = f"; memory: {', '.join(done.states)}" if done.states else ""
    call.data(
        done,
        words=f"{'Would write' if dry_run else 'Wrote'} {model} {release} as a LEAPP bundle ({done.backend}){memory}:"
        f" {done.description}\nManifest {done.manifest_digest}",
    )
    if done.left_to_the_caller:
        call.say("LEAPP's runtime leaves to its caller what a client of policyctl does by the contract:")
        for task in done.left_to_the_caller:
            call.say(f"  {task}")


@group.command("import")
@options.command("wait", "repository")
def import_release(
    call: Call,
    source: Annotated[
        str,
        typer.Argument(
            help="A folder (FOLDER@MODEL:RELEASE where it holds several), oci://HOST/NAME:TAG,"
            " or s3://BUCKET@MODEL:RELEASE."
        ),
    ],
    digest: Annotated[
        str | None, typer.Option(help="What it must hash to: the digest that the export printed.")
    ] = None,
    dry_run: options.DryRun = False,
) -> None:
    """Publish a release that was exported elsewhere: the same bytes, the same manifest.

    Every file is verified before anything is published. A download that was cut
    short goes on where it ended. Nothing is served by this.

    Examples:
        policyctl release import build/releases@walker:1.4.0
        policyctl release import oci://registry.example.com/policies/walker:1.4.0 --dry-run
    """
    from policyctl.services.releases.transfer import import_release as service

    control = call.control()
    done = service(control, source, digest=digest, dry_run=dry_run, wait_s=call.wait)
    verbs = {"published": "published", "restored": "brought back", "here already": "here already, nothing to publish"}
    _transferred(call, done, f"{'Would be' if dry_run else 'Imported,'} {verbs[done.done]}:", "from")
    if digest is None:
        call.say(f"No --digest was given, so it was taken as found. Next time: --digest {done.digest}")
    if not dry_run:
        call.say(f"Next: policyctl promote {done.model} {done.release}")


def _transferred(call: Call, done: Transferred, verb: str, way: str) -> None:
    call.data(
        done,
        words=f"{verb} {done.model} {done.release} {way} {done.place}: {done.files} files, {done.size_bytes} bytes;"
        f" {done.sent} had to be carried\nArtifact {done.digest}\nManifest {done.manifest_digest}",
    )
