"""The command that judges a release: validate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyctl.cli import options
from policyctl.cli.call import Call
from policyctl.domain.names import PRODUCTION
from policyctl.domain.verdict import Verdict, worst
from policyctl.errors import GateError, UsageError
from policyctl.foreign_code import prints_aside

if TYPE_CHECKING:
    from policyctl.services.control import Control
    from policyctl.services.moves.candidate import Check


@options.command("wait", "repository", "url")
def validate(
    call: Call,
    model: options.Model,
    release: options.Release,
    format: options.AskedFormat = None,  # noqa: A002
    gates: options.Gates = None,
    alias: options.Alias = PRODUCTION,
    recording: Annotated[
        Path | None,
        typer.Option(
            help="Add the gate replay, on a file that policyctl record wrote. [env: POLICYCTL_GATES__REPLAY__...]"
        ),
    ] = None,
    env: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Add the gate behaviour, in a gymnasium environment such as CartPole-v1; with --margin."
            " [env: POLICYCTL_GATES__BEHAVIOUR__...]",
        ),
    ] = None,
    env_arg: options.EnvArgs = None,
    wrapper: options.Wrappers = None,
    episodes: Annotated[int | None, typer.Option(help="For --env. [default: 100]", min=2)] = None,
    margin: Annotated[
        float | None,
        typer.Option(help="For --env: how much less the release may earn on average, in its own return.", min=0),
    ] = None,
) -> None:
    """Run the gates on a release and keep their evidence. No alias moves.

    A gate says passed, failed, inconclusive or error; exits with 4 unless all
    passed. Without a server the gate `golden` is inconclusive. What is measured
    takes up to a minute and a half, and holds up no rollback. It also
    says how the contract differs from that of the release that --alias names.
    No gate judges that: a promotion asks about it (--breaking).

    Examples:

        policyctl validate walker 1.0.0

        policyctl validate walker 1.1.0 --gates non_inferiority --alias staging

        policyctl validate walker 1.1.0 --gates none

        policyctl validate cartpole 1.1.0 --env CartPole-v1 --episodes 100 --margin 5

        policyctl validate walker 1.1.0 --recording walker.npz
    """
    from policyctl.services.control import select_release
    from policyctl.services.measure.performance import checks
    from policyctl.services.moves.contract_change import against_alias
    from policyctl.services.moves.validate import validate as service

    environment = options.environment(env, env_arg, wrapper)
    more = {} if environment is None else {"env_args": environment.arguments, "wrappers": environment.wrappers}
    given = {"behaviour": {"env": env, "episodes": episodes, "margin": margin, **more}}
    control = call.control(gates=given)
    named = options.gate_names(gates)
    chosen = control.settings.gates.validate_with if named is None else named
    release = select_release(control, model, release)
    with prints_aside():
        asked = [
            *checks(control, chosen, model=model, release=release, alias=alias),
            *_behaviour(control, recording, alias),
        ]
        results = service(control, model=model, release=release, format=format, checks=asked)
    verdict = worst(tuple(r.verdict for r in results))
    contract = against_alias(control, model, release, alias)
    if contract.words:
        call.say(contract.words)
    call.table(
        {
            "model": model,
            "release": release,
            "verdict": verdict,
            "gates": results,
            "contract": contract,
        },
        f"Gates of {model} {release}",
        ("gate", "verdict", "reason"),
        [(r.gate, r.verdict.upper(), r.reason) for r in results],
    )
    if verdict is not Verdict.PASSED:
        bad = next(r for r in results if r.verdict is verdict)
        reason = f"{model} {release}: {bad.gate} {bad.verdict}: {bad.reason}"
        call.end_with(GateError(reason, remedy=_remedy(bad.evidence)))


def _behaviour(control: Control, recording: Path | None, alias: str) -> list[tuple[str, Check]]:
    """The gates that judge how a release acts, as far as they were asked for."""
    chosen = control.settings.gates
    if chosen.behaviour.margin is not None and not chosen.behaviour.env:
        raise UsageError("--margin belongs to --env, which is not given", remedy="For example --env CartPole-v1.")
    if recording is None and not chosen.behaviour.env:
        return []
    from policyctl.services.experiments import shadow

    found = [] if recording is None else [shadow.replay_check(recording, chosen.replay)]
    if chosen.behaviour.env:
        found.append(shadow.behaviour_check(control, chosen.behaviour, alias=alias))
    return found


def _remedy(evidence: object) -> str:
    found = evidence.get("remedy") if isinstance(evidence, dict) else None
    return str(found or "The release is not promoted as long as a gate does not pass.")
