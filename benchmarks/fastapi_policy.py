"""A policy behind FastAPI and eager PyTorch, as most teams serve one; for `against_fastapi.py`.

    POLICY_ARCHIVE=ppo.zip python -m uvicorn fastapi_policy:app --app-dir benchmarks

An asynchronous endpoint, a Pydantic model for the observation, torch on one
thread under `inference_mode`, JSON both ways. To FastAPI's benefit it runs the
policy's bare network and not Stable-Baselines3's ``model.predict``, and has a
second endpoint that takes and gives raw bytes, which few teams write.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

from policyctl_exporters.source import Options
from policyctl_exporters.sources import open_source

torch.set_num_threads(1)

_source = open_source(Path(os.environ["POLICY_ARCHIVE"]), Options(trust_pickle=True))
if _source.graph is None:
    raise SystemExit("POLICY_ARCHIVE holds no torch policy")
_policy = _source.graph.eval()
_shape = _source.contract.observations[0].shape
_dtype = np.dtype(_source.contract.observations[0].dtype)

app = FastAPI()


class Ask(BaseModel):
    """One observation or a batch of them."""

    observation: list[list[float]]


def _act(observation: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        found = _policy(observation)
    return found if isinstance(found, torch.Tensor) else found[0]


@app.post("/act")
async def act(asked: Ask) -> dict[str, list[list[float]]]:
    """Actions as JSON."""
    return {"action": _act(torch.tensor(asked.observation, dtype=torch.float32)).tolist()}


@app.post("/act-raw")
async def act_raw(request: Request) -> Response:
    """Actions as raw bytes."""
    rows = np.frombuffer(await request.body(), dtype=_dtype).reshape(-1, *_shape)
    return Response(_act(torch.from_numpy(rows.copy())).numpy().tobytes(), media_type="application/octet-stream")
