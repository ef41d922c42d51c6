"""Commands that measure what a served policy does: evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from policyctl.cli import options
from policyctl.cli.output import Output
from policyctl.domain.names import PRODUCTION
from policyctl.domain.protocol import Protocol


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(evaluate)


def evaluate(
    model: options.Model,
    env: Annotated[
        str, typer.Option("--env", help="A gymnasium environment, for example CartPole-v1.", show_default=False)
    ],
    episodes: Annotated[int, typer.Option("--episodes", "-n", help="How many; an interval needs two.", min=2)] = 100,
    seed: Annotated[int, typer.Option(help="Of the first episode; each has its own.", min=0)] = 0,
    alias: options.Alias = PRODUCTION,
    protocol: Annotated[Protocol, typer.Option(help="How to ask.")] = Protocol.GRPC,
    reference: Annotated[
        Path | None, typer.Option(help="The policy's own file, run in eager PyTorch on the same seeds beside it.")
    ] = None,
    normalizer: Annotated[Path | None, typer.Option(help="The reference's VecNormalize pickle.")] = None,
    trust_pickle: options.TrustPickle = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep it as evidence of the release, for its model card: card show.")
    ] = False,
    wait: options.Wait = None,
    repository: options.RepositoryOption = None,
    url: options.UrlOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Run a gymnasium environment against the served policy and report the return.

    Examples:

        policyctl evaluate cartpole --env CartPole-v1 --episodes 20

        policyctl evaluate cartpole --env CartPole-v1 --reference ppo.zip --trust-pickle

        policyctl evaluate cartpole --env CartPole-v1 --keep
    """
    from policyctl.services import measure as service

    output = Output(as_json)
    beside = None
    if reference is not None:
        if trust_pickle:
            options.check_unpickling()
        beside = service.load_act(reference, normalizer=normalizer, trust_pickle=trust_pickle)
    control = options.control_of(options.read_settings(repository, url, lock_wait_s=wait), output)
    found = service.evaluate(
        control,
        model=model,
        alias=alias,
        env=env,
        episodes=episodes,
        seed=seed,
        protocol=protocol,
        reference=beside,
        keep=keep,
    )
    document = found.to_json()
    rows = [("served " + ", ".join(found.releases), *_interval(document["served"]["mean"]))]
    if found.reference is not None:
        rows.append(("reference", *_interval(document["reference"]["mean"])))
        rows.append(("served - reference, paired", *_interval(document["difference"])))
    output.table(
        document,
        f"{env}, {episodes} episodes, seeds {seed}..{seed + episodes - 1}",
        ("policy", "return", "95 % interval"),
        rows,
    )
    if found.evidence:
        output.say(f"Evidence: {found.evidence}")


def _interval(found: dict[str, Any]) -> tuple[str, str]:
    return f"{found['mean']:.2f}", f"{found['low']:.2f} .. {found['high']:.2f}"
