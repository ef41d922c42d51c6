"""Commands that measure what a served policy does: evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from policyctl.cli import options
from policyctl.cli.call import Call
from policyctl.domain.names import PRODUCTION
from policyctl.domain.protocol import Protocol
from policyctl.errors import UsageError
from policyctl.foreign_code import prints_aside


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
    act = None
    if reference is not None:
        if trust_pickle:
            options.check_unpickling()
        options.check_normalizer(normalizer, no_normalizer=no_normalizer)
        with prints_aside():
            act = service.load_act(
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
            reference=act,
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
