"""What served policies earn, against the same policies in eager PyTorch, on common seeds.

    python benchmarks/returns.py AGENTS --episodes 100

AGENTS holds one folder an agent, named ``<algorithm>-<environment>``, with
``model.zip`` and, where it was trained with one, ``vecnormalize.pkl``. Each is
exported with parity, published, and served by every backend through Triton;
the return is compared episode by episode. For discrete actions every action of
every step is compared as well: on the same observation, how often do the served
policy and the policy itself choose differently?
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from policyctl.client import PolicyClient
from policyctl.domain.artifacts import Format
from policyctl.domain.contract import Contract
from policyctl.domain.parity import Tolerance, compare
from policyctl.services.control import Control
from policyctl.services.promote import promote
from policyctl.services.publish import publish
from policyctl.settings import load as load_settings
from policyctl_benchmarks.background_server import BackgroundServer
from policyctl_benchmarks.intervals import mean_with_interval, paired_difference
from policyctl_benchmarks.rollout import rollout
from policyctl_exporters import export_policy
from policyctl_exporters.reference import load_reference

FORMATS = (Format.OPENVINO, Format.ONNX, Format.TORCHSCRIPT)
Arrays = Mapping[str, NDArray[Any]]


class Compared:
    """Acts through Triton, and holds every answer against the policy's own."""

    def __init__(self, client: PolicyClient, contract: Contract, reference: Any) -> None:
        self._client, self._contract, self._reference = client, contract, reference
        self.steps = self.real = self.near_ties = 0
        self.largest = 0.0

    def __call__(self, observations: Arrays) -> NDArray[Any]:
        """The served actions; compared with the policy's on the way."""
        served = np.asarray(self._client.act_batch(observations).value)
        expected = self._reference(observations)
        action = expected[self._contract.action.name]
        only = {**expected, self._contract.action.name: served.reshape(action.shape)}
        first = compare(self._contract, expected, only, Tolerance(atol=1e-3, rtol=1e-3)).outputs[0]
        self.steps += len(action)
        self.near_ties += first.near_ties
        if np.issubdtype(action.dtype, np.floating):
            self.largest = max(self.largest, first.max_abs)
        else:
            self.real += int(first.max_abs)
        return served


def newest(env: str) -> str:
    """The environment itself, or its newest version where this one was retired."""
    name = re.sub(r"-v\d+$", "", env)
    versions = [spec.version or 0 for spec in gym.registry.values() if spec.name == name]
    asked = int(env.rpartition("-v")[2])
    return env if name in ("CartPole",) or asked == max(versions) else f"{name}-v{max(versions)}"


def evaluate(agent: Path, episodes: int, folder: Path) -> list[dict[str, Any]]:
    """One agent through every backend."""
    env = newest(agent.name.partition("-")[2])
    pickle = agent / "vecnormalize.pkl"
    normalizer = pickle if pickle.exists() else None
    exported = export_policy(agent / "model.zip", folder / "export", normalizer=normalizer, trust_pickle=True)
    answer = load_reference(agent / "model.zip", normalizer=normalizer, trust_pickle=True)
    seeds = range(episodes)
    reference = rollout(env, lambda observations: np.asarray(answer(observations)["action"]), seeds)
    control = Control.of(load_settings(repository=folder / "model_repository"))
    publish(control, folder / "export", model="agent", release="1.0.0")
    rows = []
    with BackgroundServer(control.repository.root, folder / "serve.log") as server:
        for form in FORMATS:
            started = time.monotonic()
            promote(control, model="agent", release="1.0.0", alias="production", format=form)
            with PolicyClient("agent", url=server.endpoint["grpc"], deadline_s=30.0) as client:
                act = Compared(client, exported.contract, answer)
                served = rollout(env, act, seeds)
            rng = np.random.default_rng(0)
            difference = paired_difference(reference.returns, served.returns, rng=rng)
            rows.append(
                {
                    "agent": agent.name,
                    "env": env,
                    "backend": form.value,
                    "episodes": episodes,
                    "served": mean_with_interval(served.returns, rng=rng).to_json(),
                    "reference": mean_with_interval(reference.returns, rng=rng).to_json(),
                    "difference": difference.to_json(),
                    "same_episodes": int(np.sum(np.asarray(served.returns) == np.asarray(reference.returns))),
                    "steps": act.steps,
                    "actions_differ": act.real,
                    "near_ties": act.near_ties,
                    "largest_action_difference": act.largest,
                    "seconds": round(time.monotonic() - started, 1),
                }
            )
            print(row_text(rows[-1]), flush=True)
    return rows


def row_text(row: dict[str, Any]) -> str:
    """One line of the table."""
    served, reference, difference = row["served"], row["reference"], row["difference"]
    return (
        f"| {row['agent']} | {row['backend']} | {served['mean']:.2f} | {reference['mean']:.2f}"
        f" | {difference['mean']:+.3f} ({difference['low']:+.3f} .. {difference['high']:+.3f})"
        f" | {row['same_episodes']} of {row['episodes']} | {row['steps']} | {row['actions_differ']}"
        f" | {row['near_ties']} | {row['largest_action_difference']:.1e} |"
    )


def main() -> int:
    """Run it; 0 if no interval of a difference excludes zero and no action differs beyond near-ties."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agents", type=Path)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--only", nargs="*", help="names of agents")
    parser.add_argument("--json", type=Path, help="write everything there as well")
    given = parser.parse_args()
    agents = sorted(p.parent for p in given.agents.glob("*/model.zip"))
    if given.only:
        agents = [a for a in agents if a.name in given.only]
    print(
        "| agent | backend | served | eager | difference (95 %) | same return | steps | differ | near-ties | largest |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    rows = []
    for agent in agents:
        with tempfile.TemporaryDirectory(prefix="policyctl-returns-") as name:
            rows += evaluate(agent, given.episodes, Path(name))
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))
    off = [r for r in rows if r["actions_differ"] or not r["difference"]["low"] <= 0 <= r["difference"]["high"]]
    return 1 if off or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
