"""Export one policy of every kind to every format, as a program of its own.

python export_everything.py SOURCES            writes the sources
python export_everything.py SOURCES OUTPUT...  exports them
"""

from __future__ import annotations

import sys
from pathlib import Path

import exporter_models as models
import torch
from gymnasium import spaces
from stable_baselines3 import PPO, SAC

from policyctl_exporters import export_policy
from policyctl_exporters.normalizer import FLAT, Normalizer, Statistics

SPACES = {"observation_space": models.VECTOR, "action_space": spaces.Discrete(3)}


def module() -> torch.nn.Module:
    """A small torch module, the same in every process."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)).eval()


def write_sources(folder: Path) -> None:
    """An archive, TorchScript and ONNX, to be exported by several processes."""
    models.tiny(PPO, models.VECTOR, models.CONTINUOUS).save(folder / "ppo.zip")
    scripted = torch.jit.script(module())
    torch.jit.save(scripted, str(folder / "module.pt"))
    export_policy(module(), folder / "onnx", formats=["onnx"], **SPACES)


def export_all(sources: Path, output: Path) -> None:
    """Each kind of source to a folder of its own."""
    import numpy as np

    normalizer = Normalizer({FLAT: Statistics(np.arange(5.0), np.full(5, 4.0))}, clip_obs=10.0, epsilon=1e-8)
    export_policy(sources / "ppo.zip", output / "archive", normalizer=normalizer, trust_pickle=True)
    live = models.tiny(SAC, models.MIXED, models.CONTINUOUS, policy="MultiInputPolicy")
    export_policy(live, output / "live")
    export_policy(module(), output / "module", **SPACES)
    export_policy(sources / "module.pt", output / "torchscript", **SPACES)
    export_policy(sources / "onnx" / "model.onnx", output / "onnx", **SPACES)


if __name__ == "__main__":
    if not sys.argv[2:]:
        write_sources(Path(sys.argv[1]))
    for name in sys.argv[2:]:
        export_all(Path(sys.argv[1]), Path(name))
