"""Commands that prepare a release: export, publish."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyctl.cli import completion, options, signing
from policyctl.cli.call import Call
from policyctl.domain.artifacts import SOURCES, Format
from policyctl.domain.json_values import to_json
from policyctl.errors import UsageError
from policyctl.foreign_code import prints_aside

if TYPE_CHECKING:
    from policyctl_exporters import ExportResult


def _states(texts: Sequence[str]) -> dict[str, str]:
    pairs = {text: text.partition("=") for text in texts}
    for text, (name, _, output) in pairs.items():
        if not (name and output):
            raise UsageError(f"--state {text} is not INPUT=OUTPUT", remedy="For example: --state h_in=h_out")
    return {name: output for name, _, output in pairs.values()}


@options.command()
def export(
    call: Call,
    source: Annotated[
        str,
        typer.Argument(help=f"{SOURCES[0].upper()}{SOURCES[1:]}."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="The folder to write.")],
    normalizer: options.Normalizer = None,
    no_normalizer: options.NoNormalizer = False,
    despite_archive: options.DespiteArchive = False,
    trust_pickle: options.TrustPickle = False,
    code: options.Code = None,
    images: Annotated[
        str | None,
        typer.Option(
            metavar="LAYOUT",
            help="How the environment gives images: channels-first or channels-last; for Stable-Baselines3 archives."
            " [default: as --env has it, else channels-last]",
        ),
    ] = None,
    trust_operators: Annotated[
        bool,
        typer.Option(
            "--trust-operators", help="Keep TorchScript operators that do more than compute: they may use files."
        ),
    ] = False,
    formats: Annotated[
        list[Format] | None,
        typer.Option("--format", "-f", help="Which artifact; repeatable. [default: all but tensorrt]"),
    ] = None,
    env: Annotated[
        str | None,
        typer.Option(
            help="A gymnasium environment with the policy's spaces: for modules, TorchScript, and the layout of images."
        ),
    ] = None,
    env_arg: options.EnvArgs = None,
    wrapper: options.Wrappers = None,
    observation: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPACE",
            help="What a module or TorchScript observes: 12, 4:-1..1, uint8:96x96x3, discrete:6, multidiscrete:3,2 or"
            " multibinary:5; NAME=SPACE for each of several. Bounds may be left out or given one an element.",
        ),
    ] = None,
    action: Annotated[
        str | None, typer.Option(metavar="SPACE", help="The space of its action, in the same form.")
    ] = None,
    spaces: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Both in a YAML file: observation (a space, or names with a space each) and action."
        ),
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(
            help="What the policy's output is: action, logits, q_values or mean. Of several, which is what:"
            " NAME=KIND, also log_std, or output for one that the action does not depend on; repeatable."
        ),
    ] = None,
    state: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INPUT=OUTPUT",
            help="The input of an ONNX, .pt2 or TorchScript file that is memory, and the output that continues it;"
            " repeatable. Names such as h_in and h_out say so themselves.",
        ),
    ] = None,
    feature: Annotated[
        list[str] | None, typer.Option(help="What an element of the observation is called; repeatable, in order.")
    ] = None,
    describe: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What stands next to the weights, in a YAML file: observations (names of their elements), joints"
            " (names of the action's), histories (how the last steps lie in an observation), drive"
            " (kind, scale, offset, stiffness, damping, rate_hz, in_graph), chunk (horizon, execute, interval_s),"
            " roles (what an input is for) and units (of observations and outputs).",
        ),
    ] = None,
    runner: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The configuration of the runner that wrote an rsl_rl checkpoint: params/agent.yaml."
            " [default: what lies there next to it]",
        ),
    ] = None,
    recorded: Annotated[
        Path | None, typer.Option(help="Recorded observations (.npz) to compare on, besides drawn ones.")
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What the policy's own framework did (.npz): observations, and action next to them."
            " A policy that answers otherwise is refused.",
        ),
    ] = None,
    atol: Annotated[float | None, typer.Option(help="Absolute tolerance of parity.", min=0)] = None,
    rtol: Annotated[float | None, typer.Option(help="Relative tolerance of parity.", min=0)] = None,
    golden_rows: Annotated[int, typer.Option(help="Size of the golden set.", min=1, max=4096)] = 64,
    seed: Annotated[int, typer.Option(help="Of the observations that are drawn.", min=0)] = 0,
    step_limit: Annotated[
        float | None,
        typer.Option(
            help="Seconds that each step may take; a policy that never answers ends the export then. [default: 300]",
            min=1,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output folder.")] = False,
) -> None:
    """Turn a trained policy into files that compute the same actions.

    One graph holds everything between the raw observation and the action that
    the environment takes. Every artifact is compared with the policy itself, and
    only one that agrees is written. A format that fails does not take the others
    with it; the command fails where --format named it, or where none is left.

    Stable-Baselines3 files and VecNormalize hold pickles. Unpickling runs code
    that the file's author chose, so it needs --trust-pickle or a yes.

    Examples:
        policyctl export ppo.zip --normalizer vecnormalize.pkl --trust-pickle -o build/walker
        policyctl export policy.onnx -o build/walker
        policyctl export walk.onnx --head mlp_output=action -o build/walk
        policyctl export lstm.onnx --state memory=carry -o build/lstm
        policyctl export mypackage.policies:make --env Pendulum-v1 -o build/pendulum
        policyctl export walk.py:make --observation 47 --action 12:-1..1 -o build/walk
        policyctl export walk.py:make --spaces walk.yaml --answers episodes.npz -o build/walk
        policyctl export walk.pt --observation 47 --action 12:-1..1 -o build/walk
        policyctl export walk.pt2 -o build/walk
        policyctl export model_1500.pt --runner params/agent.yaml -o build/walk
        policyctl export pipeline/pipeline.yaml -o build/walk
        policyctl export walk.onnx --describe deploy.yaml -o build/walk
        policyctl export pick.pt --observation camera=uint8:96x96x3 --observation arm=7 --action discrete:6 -o pick
    """
    from policyctl.domain.parity import Tolerance
    from policyctl.services.releases.export import ExportRequest, check, holds_pickles
    from policyctl.services.releases.export import export as service
    from policyctl_exporters import IncompleteExportError

    options.check_normalizer(normalizer, no_normalizer=no_normalizer)
    allowed = {name: value for name, value in (("atol", atol), ("rtol", rtol)) if value is not None}
    given = {
        "formats": formats or None,
        "normalizer": False if no_normalizer else normalizer,
        "despite_archive": despite_archive,
        "images": images,
        "trust_pickle": trust_pickle,
        "code": code,
        "trust_operators": trust_operators,
        "head": head or None,
        "states": _states(state or ()),
        "feature_names": feature or None,
        "runner": runner,
        "recorded": recorded,
        "answers": answers,
        "tolerance": Tolerance(**allowed) if allowed else None,
        "golden_rows": golden_rows,
        "seed": seed,
        "step_limit_s": step_limit,
        "force": force,
    }
    environment = options.environment(env, env_arg, wrapper)
    request = ExportRequest(source, output, environment, observation or (), action, spaces, given, describe)
    check(request)
    if holds_pickles(request) and not trust_pickle and sys.stdin.isatty() and not call.as_json:
        from dataclasses import replace

        asked = f"{source} holds pickles, which run their author's code on this machine. Do you trust it?"
        request = replace(request, options={**given, "trust_pickle": typer.confirm(asked, err=True)})
    if request.options["trust_pickle"]:
        options.check_unpickling()
    incomplete: IncompleteExportError | None = None
    try:
        with prints_aside():
            result = service(request, call.say)
    except IncompleteExportError as error:
        result, incomplete = error.result, error
    call.table(
        _export_json(result),
        f"{result.output}: parity with the policy",
        ("format", "observations", "largest difference", "near-ties"),
        [
            (p.format, p.rows, ", ".join(f"{name} {value:.2g}" for name, value in p.max_abs.items()), p.near_ties)
            for p in result.parity
        ],
    )
    if incomplete is not None:
        call.end_with(incomplete)
    call.say(f"Next: policyctl publish {result.output} --model NAME --release 1.0.0")


@options.command("wait", "repository")
def publish(
    call: Call,
    source: options.ExportFolder,
    model: Annotated[str, typer.Option("--model", "-n", help="The model's name.", autocompletion=completion.models)],
    release: Annotated[str, typer.Option(help="A semantic version, never used before.")],
    dry_run: options.DryRun = False,
    sign_key: signing.SignKey = None,
    sign_certificate: signing.SignCertificate = None,
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
    from policyctl.services.releases.publish import publish as service

    control = call.control()
    # A key that cannot be used is found out before anything is published.
    signs = sign_key is not None or sign_certificate is not None
    signer = signing.read_signer(control.settings, sign_key, sign_certificate, None, call) if signs else None
    done = service(control, source, model=model, release=release, dry_run=dry_run, wait_s=call.wait)
    signed = None if signer is None or dry_run else signing.sign_published(control, signer, done.model, done.release)
    verb = "Would publish" if dry_run else "Published"
    held = ", ".join(done.formats)
    call.data(
        done if signed is None else {**to_json(done), "signature": signed},
        words=f"{verb} {done.model} {done.release} as slot {done.slot}: {held}; {done.size_bytes} bytes,"
        f" manifest {done.manifest_digest}" + ("" if signed is None else f", signed as {signed.name}"),
    )
    if signed is not None:
        signing.tell_worth(call, signed)
    if not dry_run:
        call.say(f"Next: policyctl promote {done.model} {done.release}")


def _export_json(result: ExportResult) -> dict[str, object]:
    return {
        "output": str(result.output),
        "formats": [f.value for f in result.formats],
        "contract": result.contract.to_json(),
        "parity": [
            {"format": p.format.value, "rows": p.rows, "max_abs": dict(p.max_abs), "near_ties": p.near_ties}
            for p in result.parity
        ],
        "notes": list(result.notes),
        "failed": {
            form.value: {"problem": error.problem, "remedy": error.remedy} for form, error in result.failed.items()
        },
        "seconds": dict(result.seconds),
    }
