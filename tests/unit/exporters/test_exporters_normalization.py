"""No policy is exported without the statistics that it was trained with, nor with those of another."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import exporter_models as models
import numpy as np
import pytest
import trainings
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecExtractDictObs, VecFrameStack, VecNormalize
from trainings import ALL, MODES, OFF_POLICY, ON_POLICY, SEARCH, Trained

from policyctl.card.reading import parse
from policyctl.domain.artifacts import Format
from policyctl.domain.manifest import digest_of
from policyctl.errors import UsageError
from policyctl_exporters import export_policy, load_reference
from policyctl_exporters.last_observations import Family, LastObservations, Proof
from policyctl_exporters.normalizer import FLAT, Normalizer, Statistics
from policyctl_exporters.runtimes import open_runner

Train = Callable[..., Trained]


@pytest.fixture(scope="session")
def training(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Trains once for each set of arguments."""
    folder, done = tmp_path_factory.mktemp("trainings"), {}

    def train(name: str, mode: str, seed: int = 0) -> Trained:
        if (name, mode, seed) not in done:
            done[name, mode, seed] = trainings.train(name, mode, folder, seed=seed)
        return done[name, mode, seed]

    return train


def _answer(trained: Trained, **options: Any) -> Any:
    return load_reference(trained.archive, trust_pickle=True, **options)


def _raw(trained: Trained, rows: int = 6) -> dict[str, Any]:
    space = trained.env.observation_space
    space.seed(1)
    batch = [space.sample() for _ in range(rows)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([row[key] for row in batch]) for key in space.spaces}
    return {"observation": np.stack(batch)}


def _acts_alike(answer: Any, trained: Trained, *, normalized: bool) -> None:
    raw = _raw(trained)
    seen: Any = raw if "observation" not in raw or len(raw) > 1 else raw["observation"]
    seen = trained.env.normalize_obs(seen) if normalized else seen
    expected, _ = trained.model.predict(seen, deterministic=True)
    np.testing.assert_array_equal(answer(raw)["action"].reshape(expected.shape), expected)


@pytest.mark.parametrize("name", ALL)
def test_an_archive_behind_vecnormalize_needs_its_statistics(name: str, training: Train) -> None:
    """Each algorithm is refused without them, with words that name both ways out, and acts alike with them."""
    trained = training(name, "observations")
    with pytest.raises(UsageError, match="every action would be wrong") as refusal:
        _answer(trained)
    assert "--normalizer FILE" in refusal.value.remedy
    assert "normalizer=FILE" in refusal.value.remedy
    certain = "nothing says" not in refusal.value.problem and "rewards" not in refusal.value.remedy
    assert certain is ("--no-normalizer, normalizer=False" not in refusal.value.remedy)
    assert certain or name not in SEARCH
    _acts_alike(_answer(trained, normalizer=trained.normalizer), trained, normalized=True)


@pytest.mark.parametrize("name", ALL)
def test_an_archive_without_vecnormalize_takes_no_statistics(name: str, training: Train) -> None:
    """Those of another training are refused; where nothing is proven, it must be said that there are none."""
    trained, other = training(name, "none"), training(name, "observations")
    with pytest.raises(UsageError, match=r"would change every action|does not give what this policy saw"):
        _answer(trained, normalizer=other.normalizer)
    if name in OFF_POLICY:
        with pytest.raises(UsageError, match="nothing says whether this policy was trained behind a VecNormalize"):
            _answer(trained)
        _acts_alike(_answer(trained, normalizer=False), trained, normalized=False)
    else:
        _acts_alike(_answer(trained), trained, normalized=False)
    load_reference(trained.archive, trust_pickle=True, normalizer=other.normalizer, despite_archive=True)


@pytest.mark.parametrize("name", ALL)
def test_an_archive_whose_rewards_alone_were_normalised_acts_on_raw_observations(name: str, training: Train) -> None:
    """The file of a VecNormalize of rewards says so itself; the archive alone does for all but on-policy algorithms."""
    trained = training(name, "rewards")
    if name in ON_POLICY:
        with pytest.raises(UsageError, match="trained behind a VecNormalize"):
            _answer(trained)
    else:
        _acts_alike(_answer(trained), trained, normalized=False)
    for normalizer in (False, trained.normalizer):
        _acts_alike(_answer(trained, normalizer=normalizer), trained, normalized=False)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ALL)
def test_a_live_algorithm_knows_its_own_statistics(name: str, mode: str, training: Train) -> None:
    """Nothing has to be said about a live algorithm in the environment that it was trained in."""
    trained = training(name, mode)
    _acts_alike(load_reference(trained.model), trained, normalized=mode == "observations")


@pytest.mark.parametrize("name", OFF_POLICY)
def test_an_off_policy_archive_refuses_statistics_of_another_training(name: str, training: Train) -> None:
    """The file of another seed is refused, and which feature differs by how much is said."""
    trained, other = training(name, "observations"), training(name, "observations", seed=1)
    with pytest.raises(UsageError, match=r"does not give what this policy saw: it makes .* of feature \d") as refusal:
        _answer(trained, normalizer=other.normalizer)
    assert "--despite-archive" in refusal.value.remedy


@pytest.mark.parametrize("name", [*ON_POLICY, *SEARCH])
def test_an_on_policy_archive_says_whether_statistics_are_proven_its_own(
    name: str, training: Train, tmp_path: Path
) -> None:
    """The file saved together with it gives what the policy saw last; that of another seed is taken, with a word."""
    trained, other = training(name, "observations"), training(name, "observations", seed=1)
    for normalizer, own in ((trained.normalizer, name in ON_POLICY), (other.normalizer, False)):
        result = export_policy(
            trained.archive, tmp_path / str(own), normalizer=normalizer, trust_pickle=True, formats=["onnx"], force=True
        )
        assert ("it belongs to this policy" in result.notes[0]) is own
        assert ("nothing proves that" in result.notes[0]) is not own


def test_the_right_statistics_are_known_for_a_checkpoint_too(tmp_path: Path) -> None:
    """A callback saves the archive one step before the statistics: they still belong together."""
    env = VecNormalize(DummyVecEnv([trainings._recipe("SAC")[0]]))
    model = SAC("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, seed=0, device="cpu", learning_starts=20)
    model.learn(120, CheckpointCallback(40, str(tmp_path), save_vecnormalize=True))
    archives = [tmp_path / f"rl_model_{steps}_steps.zip" for steps in (40, 80, 120)]
    files = [tmp_path / f"rl_model_vecnormalize_{steps}_steps.pkl" for steps in (40, 80, 120)]
    for archive, file in zip(archives[1:], files[1:], strict=True):
        load_reference(archive, normalizer=file, trust_pickle=True)


def test_the_card_names_the_statistics_and_their_digest(training: Train, tmp_path: Path) -> None:
    """What is published says which file its statistics came from; the export says that they belong to the policy."""
    trained, said = training("SAC", "observations"), []
    assert trained.normalizer is not None
    result = export_policy(
        trained.archive,
        tmp_path / "out",
        normalizer=trained.normalizer,
        trust_pickle=True,
        formats=["onnx"],
        progress=said.append,
    )
    source = parse((tmp_path / "out" / "model_card.yaml").read_bytes()).data["provenance"]["source"]
    assert source["normalizer"] == trained.normalizer.name
    assert source["normalizer_digest"] == digest_of(trained.normalizer.read_bytes())
    assert result.notes == (
        f"{trained.normalizer.name} gives the last observation that training kept: it belongs to this policy",
    )
    assert result.notes[0] in said


def test_where_nothing_is_proven_the_export_says_how_far_the_last_observations_lie(
    training: Train, tmp_path: Path
) -> None:
    """An ARS archive takes any statistics of its shape; those of elsewhere show in the share of far features."""
    trained = training("ARS", "observations")
    far = Normalizer({FLAT: Statistics(np.array([50.0, 0.0, 0.0]), np.ones(3))}, clip_obs=10.0, epsilon=1e-8)
    right = export_policy(
        trained.archive, tmp_path / "a", normalizer=trained.normalizer, trust_pickle=True, formats=["onnx"]
    )
    wrong = export_policy(trained.archive, tmp_path / "b", normalizer=far, trust_pickle=True, formats=["onnx"])
    assert "0.0% of the features lie beyond 5 standard deviations" in right.notes[0]
    assert "33.3% of the features lie beyond 5 standard deviations" in wrong.notes[0]
    assert right.parity[0].rows == wrong.parity[0].rows


def test_parity_runs_on_what_training_kept(training: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The raw observations in an archive are among those that artifacts are compared on."""
    from policyctl_exporters import artifacts

    trained, compared = training("SAC", "observations"), []
    write = artifacts.write_artifacts
    monkeypatch.setattr(
        "policyctl_exporters.export.write_artifacts",
        lambda *given: compared.extend(given[4]) or write(*given),
    )
    export_policy(trained.archive, tmp_path / "out", normalizer=trained.normalizer, trust_pickle=True, formats=["onnx"])
    usual = compared[0].observations["observation"]
    assert (usual == trained.model._last_original_obs).all(axis=1).any()


def test_an_archive_that_was_loaded_again_still_proves_its_vecnormalize(training: Train, tmp_path: Path) -> None:
    """`load(env=...)` forgets the last observation, and an A2C archive saved then is refused all the same."""
    trained = training("A2C", "observations")
    again = type(trained.model).load(trained.archive, env=trainings._recipe("A2C")[0]())
    again.save(tmp_path / "again.zip")
    for source in (tmp_path / "again.zip", again):
        with pytest.raises(UsageError, match="trained behind a VecNormalize"):
            load_reference(source, trust_pickle=True)


def test_a_live_algorithm_in_an_environment_that_it_was_not_trained_in_must_say_it(training: Train) -> None:
    """A loaded SAC has no last observation, so that its new environment has no VecNormalize proves nothing."""
    trained = training("SAC", "observations")
    loaded = SAC.load(trained.archive, env=trainings._recipe("SAC")[0]())
    alone = SAC.load(trained.archive)
    for source in (loaded, alone.policy):
        with pytest.raises(UsageError, match="nothing says whether"):
            load_reference(source)
        load_reference(source, normalizer=False)
    with pytest.raises(UsageError, match="every action would be wrong"):
        load_reference(alone)
    load_reference(alone, normalizer=trained.env)


def test_a_new_vecnormalize_around_a_trained_policy_is_refused(training: Train) -> None:
    """Statistics that have seen nothing are no policy's statistics."""
    trained = training("PPO", "observations")
    new = VecNormalize(DummyVecEnv([trainings._recipe("PPO")[0]]))
    loaded = PPO.load(trained.archive, env=new)
    with pytest.raises(UsageError, match="its VecNormalize has seen no observation"):
        load_reference(loaded)
    with pytest.raises(UsageError, match="the normalizer has seen no observation"):
        load_reference(trained.archive, normalizer=new, trust_pickle=True)


def _seen(family: Family, original: Any, last: Any, **more: Any) -> LastObservations:
    given = [{} if value is None else {FLAT: np.asarray(value)} for value in (original, last)]
    space = more.pop("space", spaces.Box(-1.0, 1.0, (2,)))
    return LastObservations(family, space, original=given[0], last=given[1], **more)


A, B, FAR = (np.array([row], np.float32) for row in ([0.1, 0.2], [0.3, 0.4], [5.0, 0.4]))
ZEROS, WIDE = np.zeros((1, 2), np.float32), A.astype(np.float64)
IMAGE = np.zeros((1, 3, 4, 4), np.uint8)


@pytest.mark.parametrize(
    ("seen", "proof"),
    [
        (_seen(Family.ON_POLICY, None, A), Proof.RAW),
        (_seen(Family.ON_POLICY, A, B), Proof.WRAPPED),
        (_seen(Family.ON_POLICY, A, A), Proof.WRAPPED),
        (_seen(Family.ON_POLICY, A, None), Proof.WRAPPED),
        (_seen(Family.ON_POLICY, A, FAR), Proof.NORMALIZED),
        (_seen(Family.ON_POLICY, FAR, FAR), Proof.WRAPPED),
        (_seen(Family.ON_POLICY, WIDE, A), Proof.NORMALIZED),
        (_seen(Family.ON_POLICY, None, None), Proof.UNKNOWN),
        (_seen(Family.SEARCH, None, A), Proof.RAW),
        (_seen(Family.SEARCH, A, A), Proof.RAW),
        (_seen(Family.SEARCH, A, B), Proof.NORMALIZED),
        (_seen(Family.SEARCH, A, None), Proof.WRAPPED),
        (_seen(Family.SEARCH, ZEROS, ZEROS), Proof.WRAPPED),
        (_seen(Family.OFF_POLICY, None, A), Proof.RAW),
        (_seen(Family.OFF_POLICY, A, A), Proof.RAW),
        (_seen(Family.OFF_POLICY, A, B), Proof.UNKNOWN),
        (_seen(Family.OFF_POLICY, A, FAR), Proof.NORMALIZED),
        (_seen(Family.OFF_POLICY, WIDE, A), Proof.NORMALIZED),
        (_seen(Family.OFF_POLICY, ZEROS, ZEROS), Proof.UNKNOWN),
        (_seen(Family.OFF_POLICY, A, None), Proof.UNKNOWN),
        (_seen(Family.OFF_POLICY, None, None), Proof.UNKNOWN),
        (_seen(Family.OFF_POLICY, WIDE, WIDE + 0.1), Proof.UNKNOWN),
        (_seen(Family.OFF_POLICY, WIDE, WIDE + 0.1, casts=True), Proof.RAW),
        (_seen(Family.OFF_POLICY, IMAGE, IMAGE + 1, space=spaces.Box(0, 255, (3, 4, 4), np.uint8)), Proof.RAW),
        (_seen(Family.OFF_POLICY, [1], [2], space=spaces.Discrete(4)), Proof.RAW),
        (LastObservations(Family.ON_POLICY, models.VECTOR, {"a": A}, {FLAT: A}), Proof.WRAPPED),
    ],
)
def test_the_last_observations_prove_what_the_table_says(seen: LastObservations, proof: Proof) -> None:
    """Each row of the table in `last_observations`."""
    assert seen.proof() is proof


def test_an_array_that_an_archive_holds_but_nobody_can_read_proves_nothing(training: Train, tmp_path: Path) -> None:
    """A damaged entry makes the export ask, it does not let the policy through."""
    import base64
    import json
    import zipfile

    trained = training("PPO", "observations")
    broken = {":type:": "x", ":serialized:": base64.b64encode(pickle.dumps(np.array([None]))).decode()}
    for key in ("_last_original_obs", "_last_obs"):
        for value in (broken, 3, "x", [1]):
            with zipfile.ZipFile(trained.archive) as given, zipfile.ZipFile(tmp_path / "x.zip", "w") as changed:
                for name in given.namelist():
                    body = given.read(name)
                    changed.writestr(name, json.dumps({**json.loads(body), key: value}) if name == "data" else body)
            with pytest.raises(UsageError, match="nothing says whether"):
                load_reference(tmp_path / "x.zip", trust_pickle=True)


class _Parts(trainings.Reach):
    """An environment with one part that the policy is to see, and one of another shape."""

    def __init__(self) -> None:
        super().__init__()
        wide = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.observation_space = spaces.Dict({**self.observation_space.spaces, "wide": wide})

    def _observation(self) -> dict[str, Any]:
        return {**super()._observation(), "wide": np.array([*self.at, 1.0], np.float32)}


def test_statistics_by_key_fit_a_policy_that_observes_one_of_them(tmp_path: Path) -> None:
    """VecNormalize around a Dict, then one part of it: the right file is not called a wrong one."""
    env = VecNormalize(DummyVecEnv([_Parts]))
    model = PPO("MlpPolicy", VecExtractDictObs(env, "wide"), n_steps=32, batch_size=32, seed=0, device="cpu").learn(64)
    result = export_policy(model, tmp_path / "out", formats=["onnx"])
    raw = np.array([[4.0, -1.0, 1.0]], np.float32)
    parts = dict.fromkeys(("observation", "achieved_goal", "desired_goal"), np.zeros((1, 2), np.float32))
    expected, _ = model.predict(env.normalize_obs({**parts, "wide": raw})["wide"], deterministic=True)
    found = open_runner(Format.ONNX, tmp_path / "out", result.contract)({"observation": raw})["action"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert result.notes == ("the policy's observation is taken for 'wide'",)


def test_statistics_by_key_fit_what_hindsight_replay_once_fed_its_policy(training: Train) -> None:
    """Before policies took Dict observations, HER gave them the observation followed by the goal."""
    keyed = training("HER", "observations")
    flat = models.tiny(SAC, spaces.Box(-np.inf, np.inf, (4,)), spaces.Box(-1.0, 1.0, (2,)))
    raw = _raw(keyed)
    normal = keyed.env.normalize_obs(raw)
    joined = [np.concatenate([part["observation"], part["desired_goal"]], axis=1) for part in (raw, normal)]
    found = load_reference(flat, normalizer=keyed.env)({"observation": joined[0]})["action"]
    np.testing.assert_array_equal(found, flat.predict(joined[1], deterministic=True)[0])


def test_statistics_by_key_that_no_single_one_fits_are_refused_with_their_shapes(training: Train) -> None:
    """The message says what is there and what is needed, and does not call the file wrong."""
    flat = models.tiny(SAC, models.VECTOR, models.CONTINUOUS)
    with pytest.raises(UsageError, match=r"achieved_goal \(2,\).*one array of shape \(5,\)"):
        load_reference(flat, normalizer=training("HER", "observations").env)


def test_frames_that_were_stacked_after_normalising_are_named(tmp_path: Path) -> None:
    """Such a policy cannot be exported, and the statistics are not called those of another policy."""
    env = VecFrameStack(VecNormalize(DummyVecEnv([trainings._recipe("PPO")[0]])), 2)
    model = PPO("MlpPolicy", env, n_steps=32, batch_size=32, seed=0, device="cpu").learn(64)
    with pytest.raises(UsageError, match=r"statistics have shape \(3,\)") as refusal:
        export_policy(model, tmp_path / "out")
    assert "2 frames that VecFrameStack stacked after VecNormalize" in refusal.value.remedy
    inside = VecNormalize(VecFrameStack(DummyVecEnv([trainings._recipe("PPO")[0]]), 2))
    around = PPO("MlpPolicy", inside, n_steps=32, batch_size=32, seed=0, device="cpu").learn(64)
    export_policy(around, tmp_path / "out", formats=["onnx"])


@pytest.mark.case
def test_the_command_line_demands_the_statistics_of_an_off_policy_archive(
    case: Callable[[str], Path], training: Train, run: Callable[..., Any], tmp_path: Path
) -> None:
    """A SAC behind VecNormalize: exit code 2 and the option by name; with the file the right action is served."""
    case("offpolicy_vecnormalize")
    trained = training("SAC", "observations")
    assert trained.normalizer is not None
    command = ("export", trained.archive, "--trust-pickle", "-o", tmp_path / "out", "-f", "onnx", "-q")
    refused = run(*command)
    assert refused.code == 2
    assert "--normalizer FILE" in refused.err
    assert run(*command, "--normalizer", trained.normalizer).code == 0
    import onnxruntime

    raw = np.array([[0.1, -0.9, 6.0]], np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    expected, _ = trained.model.predict(trained.env.normalize_obs(raw), deterministic=True)
    np.testing.assert_allclose(session.run(["action"], {"observation": raw})[0], expected, atol=1e-5)
    against = run(*command, "--normalizer", training("SAC", "observations", seed=1).normalizer, "--force")
    assert against.code == 2
    assert "does not give what this policy saw" in against.err
