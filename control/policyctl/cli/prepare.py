"""Commands that prepare a release: export, publish, validate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyctl.cli import options, signing
from policyctl.cli.output import Output
from policyctl.domain.artifacts import Format
from policyctl.domain.names import PRODUCTION
from policyctl.domain.verdict import Verdict, worst
from policyctl.errors import GateError, UsageError

if TYPE_CHECKING:
    from policyctl.services.candidate import Check
    from policyctl.services.control import Control
    from policyctl_exporters import ExportResult


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(export)
    app.command()(publish)
    app.command()(validate)


def export(
    source: Annotated[
        str,
        typer.Argument(
            help="A Stable-Baselines3 or sb3-contrib .zip, a TorchScript .pt, an .onnx,"
            " or package.module:callable that returns a torch module.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.", show_default=False)],
    normalizer: Annotated[Path | None, typer.Option(help="The VecNormalize pickle it was trained with.")] = None,
    no_normalizer: Annotated[
        bool, typer.Option("--no-normalizer", help="VecNormalize was used in training, but for rewards alone.")
    ] = False,
    trust_pickle: options.TrustPickle = False,
    formats: Annotated[
        list[Format] | None,
        typer.Option("--format", "-f", help="Which artifact; repeatable. [default: all but tensorrt]"),
    ] = None,
    env: Annotated[
        str | None, typer.Option(help="A gymnasium environment with the policy's spaces (modules, TorchScript).")
    ] = None,
    head: Annotated[
        str | None, typer.Option(help="What a module's single output is: action, logits, q_values or mean.")
    ] = None,
    feature: Annotated[
        list[str] | None, typer.Option(help="What an element of the observation is called; repeatable, in order.")
    ] = None,
    recorded: Annotated[
        Path | None, typer.Option(help="Recorded observations (.npz) to compare on, besides drawn ones.")
    ] = None,
    atol: Annotated[float | None, typer.Option(help="Absolute tolerance of parity.", min=0)] = None,
    rtol: Annotated[float | None, typer.Option(help="Relative tolerance of parity.", min=0)] = None,
    golden_rows: Annotated[int, typer.Option(help="Size of the golden set.", min=1, max=4096)] = 64,
    seed: Annotated[int, typer.Option(help="Of the observations that are drawn.", min=0)] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the output folder.")] = False,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Turn a trained policy into files that compute the same actions.

    One graph holds everything between the raw observation and the action that
    the environment takes. Every artifact is compared with the policy in eager
    PyTorch; one that differs fails the export, and nothing is written.

    Stable-Baselines3 files and VecNormalize hold pickles. Unpickling runs code
    that the file's author chose, so it needs --trust-pickle or a yes.

    Examples:

        policyctl export ppo.zip --normalizer vecnormalize.pkl --trust-pickle -o build/walker

        policyctl export policy.onnx -o build/walker

        policyctl export mypackage.policies:make --env Pendulum-v1 -o build/pendulum
    """
    from policyctl.domain.parity import Tolerance
    from policyctl.services.export import ExportRequest, holds_pickles
    from policyctl.services.export import export as service

    out = Output(as_json, quiet)
    if normalizer is not None and no_normalizer:
        raise UsageError("--normalizer and --no-normalizer exclude each other", remedy="Give one of them.")
    default = Tolerance()
    tolerance = None
    if atol is not None or rtol is not None:
        tolerance = Tolerance(atol=default.atol if atol is None else atol, rtol=default.rtol if rtol is None else rtol)
    request = ExportRequest(
        source=source,
        output=output,
        formats=tuple(formats) if formats else None,
        normalizer=normalizer,
        no_normalizer=no_normalizer,
        trust_pickle=trust_pickle,
        env=env,
        head=head,
        features=tuple(feature or ()),
        recorded=recorded,
        tolerance=tolerance,
        golden_rows=golden_rows,
        seed=seed,
        force=force,
    )
    if holds_pickles(request) and not trust_pickle and sys.stdin.isatty() and not as_json:
        from dataclasses import replace

        asked = f"{source} holds pickles, which run their author's code on this machine. Do you trust it?"
        request = replace(request, trust_pickle=typer.confirm(asked, err=True))
    if request.trust_pickle:
        options.check_unpickling()
    result = service(request, out.say)
    out.table(
        _export_json(result),
        f"{result.output}: parity with the policy",
        ("format", "observations", "largest difference", "near-ties"),
        [
            (p.format, p.rows, ", ".join(f"{name} {value:.2g}" for name, value in p.max_abs.items()), p.near_ties)
            for p in result.parity
        ],
    )
    out.say(f"Next: policyctl publish {result.output} --model NAME --release 1.0.0")


def publish(
    source: Annotated[Path, typer.Argument(help="A folder that export wrote.", show_default=False)],
    model: Annotated[str, typer.Option("--model", "-n", help="The model's name.", show_default=False)],
    release: Annotated[
        str, typer.Option("--release", help="A semantic version, never used before.", show_default=False)
    ],
    dry_run: options.DryRun = False,
    wait: Annotated[
        float | None, typer.Option("--wait", help="Seconds to wait for another writer. [default: 30]", min=0)
    ] = None,
    sign_key: signing.SignKey = None,
    sign_certificate: signing.SignCertificate = None,
    repository: options.RepositoryOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Give exported files a release, a slot and a manifest. Nothing is served by this.

    The number must promise what changes: what the contract removes, renames,
    reshapes, retypes or bounds more tightly needs MAJOR, what it adds MINOR.
    `policyctl release next` proposes one. The same bytes under the same number
    are no error and change nothing.

    Examples:

        policyctl publish build/walker --model walker --release 1.0.0

        policyctl publish build/walker --model walker --release 1.0.1 --dry-run

        policyctl publish build/walker --model walker --release 1.0.1 --sign-key alice.pem
    """
    from policyctl.services.publish import publish as service

    out = Output(as_json, quiet)
    control = options.control_of(options.read_settings(repository), out)
    # A key that cannot be used is found out before anything is published.
    signer = signing.signer_of_publish(control.settings, sign_key, sign_certificate, out)
    done = service(control, source, model=model, release=release, dry_run=dry_run, wait_s=wait)
    signed = None if signer is None or dry_run else signing.sign_published(control, signer, done.model, done.release)
    verb = "Would publish" if dry_run else "Published"
    held = ", ".join(done.formats)
    out.data(
        done.to_json() if signed is None else {**done.to_json(), "signature": signed.to_json()},
        words=f"{verb} {done.model} {done.release} as slot {done.slot}: {held}; {done.size_bytes} bytes,"
        f" manifest {done.manifest_digest}" + ("" if signed is None else f", signed as {signed.name}"),
    )
    if signed is not None:
        signing.tell_worth(out, signed)
    if not dry_run:
        out.say(f"Next: policyctl promote {done.model} {done.release}")


def validate(
    model: options.Model,
    release: options.Release,
    format: options.AskedFormat = None,  # noqa: A002
    gates: options.Gates = None,
    alias: options.Alias = PRODUCTION,
    recording: options.RecordingOption = None,
    env: options.EnvOption = None,
    episodes: options.EpisodesOption = None,
    margin: options.MarginOption = None,
    wait: options.Wait = None,
    repository: options.RepositoryOption = None,
    url: options.UrlOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Run the gates on a release and keep their evidence. No alias moves.

    A gate says passed, failed, inconclusive or error; exits with 4 unless all
    passed. Without a server the gate `golden` is inconclusive. What is measured
    takes up to a minute and a half, and holds up no rollback.

    Examples:

        policyctl validate walker 1.0.0

        policyctl validate walker 1.1.0 --gates non_inferiority --alias staging

        policyctl validate walker 1.1.0 --gates none

        policyctl validate cartpole 1.1.0 --env CartPole-v1 --episodes 100 --margin 5

        policyctl validate walker 1.1.0 --recording walker.npz
    """
    from policyctl.services.control import select_release
    from policyctl.services.performance import checks
    from policyctl.services.validate import validate as service

    out = Output(as_json, quiet)
    given = {"behaviour": {"env": env, "episodes": episodes, "margin": margin}}
    settings = options.read_settings(repository, url, lock_wait_s=wait, gates=given)
    control = options.control_of(settings, out)
    chosen = control.settings.gates.validate_with if gates is None else options.gate_names(gates)
    release = select_release(control, model, release)
    asked = [
        *checks(control, chosen, model=model, release=release, alias=alias),
        *_behaviour(control, recording, alias),
    ]
    results = service(control, model=model, release=release, format=format, checks=asked)
    verdict = worst(tuple(r.verdict for r in results))
    out.table(
        {"model": model, "release": release, "verdict": verdict, "gates": [r.to_json() for r in results]},
        f"Gates of {model} {release}",
        ("gate", "verdict", "reason"),
        [(r.gate, r.verdict.upper(), r.reason) for r in results],
    )
    if verdict is not Verdict.PASSED:
        bad = next(r for r in results if r.verdict is verdict)
        if as_json:
            raise typer.Exit(GateError.exit_code)
        raise GateError(f"{model} {release}: {bad.gate} {bad.verdict}: {bad.reason}", remedy=_remedy(bad.evidence))


def _behaviour(control: Control, recording: Path | None, alias: str) -> list[tuple[str, Check]]:
    """The gates that judge how a release acts, as far as they were asked for."""
    chosen = control.settings.gates
    if chosen.behaviour.margin is not None and not chosen.behaviour.env:
        raise UsageError("--margin belongs to --env, which is not given", remedy="For example --env CartPole-v1.")
    if recording is None and not chosen.behaviour.env:
        return []
    from policyctl.services import shadow

    found = [] if recording is None else [shadow.replay_check(recording, chosen.replay)]
    if chosen.behaviour.env:
        found.append(shadow.behaviour_check(control, chosen.behaviour, alias=alias))
    return found


def _remedy(evidence: object) -> str:
    found = evidence.get("remedy") if isinstance(evidence, dict) else None
    return str(found or "The release is not promoted as long as a gate does not pass.")


def _export_json(result: ExportResult) -> dict[str, object]:
    return {
        "output": str(result.output),
        "formats": [f.value for f in result.formats],
        "contract": result.contract.to_json(),
        "parity": [
            {"format": p.format.value, "rows": p.rows, "max_abs": dict(p.max_abs), "near_ties": p.near_ties}
            for p in result.parity
        ],
        "seconds": dict(result.seconds),
    }
