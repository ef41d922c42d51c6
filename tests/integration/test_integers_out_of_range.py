"""An observation that its discrete space does not hold, on the real Triton, behind every backend."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc as triton
from embedded import PATIENCE_S, Embedded, embedded
from tritonclient.utils import InferenceServerException

from policyctl.client import PolicyClient
from policyctl.errors import UsageError

pytestmark = [pytest.mark.server, pytest.mark.case]

CELLS = 16


@pytest.fixture(scope="module", params=["off", "auto"], ids=["python", "native"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """An alias for each format of a policy over Discrete(16); requests wait for others, so that they form batches."""
    import gymnasium as gym
    from stable_baselines3 import PPO

    from policyctl_exporters import export_policy

    folder = tmp_path_factory.mktemp("integers")
    export_policy(PPO("MlpPolicy", gym.make("FrozenLake-v1"), seed=1, device="cpu"), folder / "lake")
    with pytest.MonkeyPatch.context() as patch, embedded(folder / "served") as server:
        patch.setenv("POLICYCTL_SERVING__NATIVE", request.param)
        patch.setenv("POLICYCTL_SERVING__MAX_QUEUE_DELAY_US", "50000")
        patch.setenv("POLICYCTL_SERVING__PREFERRED_BATCH_SIZES", "[8]")
        server.run("publish", str(folder / "lake"), "--model", "lake", "--release", "1.0.0")
        server.start()
        for name in ("onnx", "openvino", "torchscript"):
            server.run("promote", "lake", "1.0.0", "--alias", name, "--format", name)
        yield server


@pytest.mark.parametrize("name", ["onnx", "openvino", "torchscript"])
def test_a_cell_that_is_none_gets_no_action_and_hurts_nobody_else(served: Embedded, name: str) -> None:
    """Each request of a batch has its own fate; Stable-Baselines3 raises for such an observation."""
    cells = [0, CELLS, 1, -1, 2, 2**62, 15, 3]
    with triton.InferenceServerClient(served.endpoint["grpc"]) as client:

        def ask(cell: int) -> int | str:
            tensor = triton.InferInput("observation", [1, 1], "INT64")
            tensor.set_data_from_numpy(np.array([[cell]]))
            try:
                answer = client.infer(f"lake.{name}", [tensor], client_timeout=PATIENCE_S)
            except InferenceServerException as error:
                return str(error.message())
            return int(answer.as_numpy("action")[0, 0])

        with ThreadPoolExecutor(len(cells)) as pool:
            answers = dict(zip(cells, pool.map(ask, cells), strict=True))
    with PolicyClient("lake", alias=name, url=served.endpoint["grpc"], deadline_s=PATIENCE_S) as client:
        for cell, answer in answers.items():
            if 0 <= cell < CELLS:
                assert answer == client.act(cell).value
                continue
            assert f"observation[0] of row 0 as {cell}, its range is 0 to 15" in str(answer)
            with pytest.raises(UsageError, match="its range is 0 to 15"):
                client.act(cell)


def test_a_batch_of_which_one_row_is_wrong_is_refused_by_its_row(served: Embedded) -> None:
    """One request is answered as a whole or not at all."""
    with PolicyClient("lake", alias="openvino", url=served.endpoint["grpc"], deadline_s=PATIENCE_S) as client:
        assert client.act_batch([0, 15]).value.shape == (2,)
        with pytest.raises(UsageError, match=r"row 1: observation\[0\] is 16"):
            client.act_batch([0, 16])
