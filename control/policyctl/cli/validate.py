"""Commands that judge what a release does: validate, evaluate."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policyctl.cli import options
from policyctl.cli.call import Call
from policyctl.domain.names import PRODUCTION
from policyctl.domain.protocol import Protocol
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


@options.command("wait", "repository", "url")
def evaluate(
    call: Call,
    model: options.Model,
    env: Annotated[str, typer.Option(help="A gymnasium environment, for example CartPole-v1.")],
    env_arg: options.EnvArgs = None,
    wrapper: options.Wrappers = None,
    episodes: Annotated[int, typer.Option("--episodes", "-n", help="How many; an interval needs two.", min=2)] = 100,
    seed: Annotated[int, typer.Option(help="Of the first episode; each has its own.", min=0)] = 0,
    alias: options.Alias = PRODUCTION,
    protocol: Annotated[Protocol, typer.Option(help="How to ask.")] = Protocol.GRPC,
    reference: Annotated[
        Path | None, typer.Option(help="The policy's own file, also run, in eager PyTorch on the same seeds.")
    ] = None,
    normalizer: options.Normalizer = None,
    no_normalizer: options.NoNormalizer = False,
    despite_archive: options.DespiteArchive = False,
    trust_pickle: options.TrustPickle = False,
    code: options.Code = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep it as evidence of the release, for its model card: card show.")
    ] = False,
) -> None:
    """Run an environment against the served policy and report the return.

    Examples:
        policyctl evaluate cartpole --env CartPole-v1 --episodes 20
        policyctl evaluate cartpole --env CartPole-v1 --reference ppo.zip --trust-pickle
        policyctl evaluate cartpole --env CartPole-v1 --keep
        policyctl evaluate pendulum --env Pendulum-v1 --env-arg g=9.81 --wrapper my_wrappers:scaled
    """
    from policyctl.measuring.environments import Environment
    from policyctl.services.measure import evaluate as service

    environment = Environment(env, options.environment_arguments(env_arg), tuple(wrapper or ()))
    player = None
    if reference is not None:
        if trust_pickle:
            options.check_unpickling()
        options.check_normalizer(normalizer, no_normalizer=no_normalizer)
        service.require_reference(reference, normalizer)
        player = functools.partial(
            service.load_player,
            reference,
            environment,
            normalizer=False if no_normalizer else normalizer,
            despite_archive=despite_archive,
            trust_pickle=trust_pickle,
            code=code,
        )
    elif normalizer is not None or no_normalizer:
        raise UsageError(
            "--normalizer and --no-normalizer belong to --reference, which is not given",
            remedy="Leave them out, or name the policy's own file: --reference ppo.zip",
        )
    control = call.control()
    with prints_aside():
        found = service.evaluate(
            control,
            model=model,
            alias=alias,
            env=environment,
            episodes=episodes,
            seed=seed,
            protocol=protocol,
            reference=player,
            keep=keep,
        )
    document = found.to_json()
    rows = [("served " + ", ".join(found.releases), *_interval(document["served"]["mean"]))]
    if found.reference is not None:
        rows.append(("reference", *_interval(document["reference"]["mean"])))
        rows.append(("served - reference, paired", *_interval(document["difference"])))
    call.table(
        document,
        f"{environment.description}, {episodes} episodes, seeds {seed}..{seed + episodes - 1}",
        ("policy", "return", "95 % interval"),
        rows,
    )
    if found.evidence:
        call.say(f"Evidence: {found.evidence}")


def _interval(found: dict[str, Any]) -> tuple[str, str]:
    return f"{found['mean']:.2f}", f"{found['low']:.2f} .. {found['high']:.2f}"
