"""Laws of drawing actions on the client."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.client.sampling import check_seed, draw, parameters_of
from policyctl.domain.contract import ActionKind, Contract, Distribution, DistributionKind, Transform
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import ServerError, UsageError

OBSERVATION = (TensorSpec("observation", "float32", (1,)),)
N = 40_000


def rng(seed: int = 7) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def categorical(choices: int, *, start: int = 0) -> Contract:
    return Contract(
        OBSERVATION,
        (
            TensorSpec("action", "int64", (1,), low=float(start), high=float(start + choices - 1)),
            TensorSpec("logits", "float32", (choices,)),
        ),
        ActionKind.DISCRETE,
        Distribution(DistributionKind.CATEGORICAL),
    )


def gaussian(
    transform: Transform,
    low: float | tuple[float, ...] | None = -2.0,
    high: float | tuple[float, ...] | None = 4.0,
    *,
    size: int = 1,
) -> Contract:
    return Contract(
        OBSERVATION,
        (
            TensorSpec("action", "float32", (size,), low=low, high=high),
            TensorSpec("mean", "float32", (size,)),
            TensorSpec("log_std", "float32", (size,)),
        ),
        ActionKind.CONTINUOUS,
        Distribution(DistributionKind.GAUSSIAN, transform=transform),
    )


def normal_outputs(mean: float, log_std: float, *, rows: int = N, size: int = 1) -> dict[str, np.ndarray]:
    return {
        "mean": np.full((rows, size), mean, dtype=np.float32),
        "log_std": np.full((rows, size), log_std, dtype=np.float32),
    }


def chi_square(counts: np.ndarray, probabilities: np.ndarray) -> float:
    expected = probabilities * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max())
    return e / e.sum()


def test_categorical_frequencies_are_the_softmax() -> None:
    """Chi-square with 4 degrees of freedom stays below its 99.9 % quantile (18.47)."""
    logits = np.array([0.3, -1.0, 2.0, 0.0, 1.1], dtype=np.float32)
    drawn = draw(categorical(5), {"logits": np.tile(logits, (N, 1))}, rng())
    assert drawn.shape == (N, 1) and drawn.dtype == np.int64
    counts = np.bincount(drawn[:, 0], minlength=5)
    assert chi_square(counts, softmax(logits.astype(np.float64))) < 18.47


def test_rows_are_drawn_by_their_own_logits() -> None:
    """A certain choice in one row does not leak into the next."""
    logits = np.full((3, 3), -1000.0)
    logits[[0, 1, 2], [2, 0, 1]] = 1000.0
    drawn = draw(categorical(3, start=10), {"logits": logits}, rng())
    np.testing.assert_array_equal(drawn[:, 0], [12, 10, 11])


def test_a_masked_choice_is_never_drawn() -> None:
    """Logit -inf is probability 0, first, last and in between, even when nothing else is left."""
    logits = np.array([-np.inf, 0.0, -np.inf, 0.0, -np.inf])
    drawn = draw(categorical(5), {"logits": np.tile(logits, (2000, 1))}, rng())
    assert set(drawn[:, 0]) == {1, 3}
    only = np.full((100, 5), -np.inf)
    only[:, 4] = -1e30
    assert set(draw(categorical(5), {"logits": only}, rng())[:, 0]) == {4}


class _Extremes:
    """A generator whose uniform numbers are the ends of [0, 1)."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self, shape: int) -> np.ndarray:
        return np.full(shape, self.value)


@pytest.mark.parametrize(("uniform", "choice"), [(0.0, 1), (np.nextafter(1.0, 0.0), 2)])
def test_the_ends_of_the_uniform_draw_are_possible_choices(uniform: float, choice: int) -> None:
    """Exactly 0 and the largest number below 1 do not reach choices of probability 0 next to them."""
    logits = np.array([[-np.inf, 0.1, 0.2, -np.inf]])
    assert draw(categorical(4), {"logits": logits}, _Extremes(uniform))[0, 0] == choice  # type: ignore[arg-type]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8), st.integers(-5, 5), st.integers(0, 2**32))
def test_any_draw_is_one_of_the_choices(logits: list[float], start: int, seed: int) -> None:
    """From whatever logits: between the space's start and its last choice."""
    contract = categorical(len(logits), start=start)
    value = int(draw(contract, {"logits": np.array([logits])}, rng(seed))[0, 0])
    assert start <= value < start + len(logits)


def test_the_components_of_a_multi_discrete_action_are_independent_softmaxes() -> None:
    """Each block of logits gives its own frequencies, and the joint ones are the product."""
    contract = Contract(
        OBSERVATION,
        (
            TensorSpec("action", "int64", (2,), low=(1.0, -1.0), high=(2.0, 1.0)),
            TensorSpec("logits", "float32", (5,)),
        ),
        ActionKind.MULTI_DISCRETE,
        Distribution(DistributionKind.MULTI_CATEGORICAL, nvec=(2, 3)),
    )
    logits = np.array([0.5, -0.5, 0.0, 1.0, -1.0])
    drawn = draw(contract, {"logits": np.tile(logits, (N, 1))}, rng())
    assert drawn.shape == (N, 2)
    assert drawn.min(axis=0).tolist() == [1, -1] and drawn.max(axis=0).tolist() == [2, 1]
    joint = np.bincount((drawn[:, 0] - 1) * 3 + drawn[:, 1] + 1, minlength=6)
    law = np.outer(softmax(logits[:2]), softmax(logits[2:])).ravel()
    assert chi_square(joint, law) < 20.52  # 5 degrees of freedom, 99.9 %


def test_bernoulli_components_are_one_with_the_sigmoid() -> None:
    """Frequencies within five standard errors; extreme logits are certain and raise no warning."""
    contract = Contract(
        OBSERVATION,
        (TensorSpec("action", "uint8", (4,)), TensorSpec("logits", "float32", (4,))),
        ActionKind.MULTI_BINARY,
        Distribution(DistributionKind.BERNOULLI),
    )
    logits = np.array([-1.0, 0.7, 1000.0, -1000.0])
    drawn = draw(contract, {"logits": np.tile(logits, (N, 1))}, rng())
    assert drawn.dtype == np.uint8 and set(np.unique(drawn)) == {0, 1}
    law = 1 / (1 + np.exp(-logits[:2]))
    error = np.sqrt(law * (1 - law) / N)
    assert (np.abs(drawn[:, :2].mean(axis=0) - law) < 5 * error).all()
    assert drawn[:, 2].all() and not drawn[:, 3].any()


def test_an_untransformed_gaussian_has_its_mean_and_deviation() -> None:
    """Within five standard errors, and beyond the bounds where the law says so."""
    drawn = draw(gaussian(Transform.NONE), normal_outputs(1.0, np.log(3.0)), rng())
    assert drawn.dtype == np.float32 and drawn.shape == (N, 1)
    assert abs(drawn.mean() - 1.0) < 5 * 3.0 / np.sqrt(N)
    assert abs(drawn.std() - 3.0) < 5 * 3.0 / np.sqrt(2 * N)
    assert drawn.max() > 4.0


def test_clip_is_the_same_sample_cut_at_the_bounds() -> None:
    """With the same seed: min(max(sample, low), high)."""
    outputs = normal_outputs(1.0, 1.0)
    raw = draw(gaussian(Transform.NONE), outputs, rng())
    np.testing.assert_array_equal(draw(gaussian(Transform.CLIP), outputs, rng()), np.clip(raw, -2.0, 4.0))


def test_tanh_rescale_is_the_squashed_sample_on_the_bounds() -> None:
    """tanh of the sample, from [-1, 1] to [low, high], element by element."""
    contract = gaussian(Transform.TANH_RESCALE, (-2.0, 0.0), (4.0, 10.0), size=2)
    outputs = normal_outputs(0.3, -0.5, size=2)
    raw = draw(gaussian(Transform.NONE, None, None, size=2), outputs, rng()).astype(np.float64)
    low, high = np.array([-2.0, 0.0]), np.array([4.0, 10.0])
    np.testing.assert_allclose(
        draw(contract, outputs, rng()), low + (np.tanh(raw) + 1) / 2 * (high - low), rtol=1e-5, atol=1e-5
    )


def test_rescale_clips_to_one_and_then_rescales() -> None:
    """A sample of -1 and below is `low`, 0 the middle, 1 and above `high`."""
    certain = {name: np.array([[-9.0], [-1.0], [0.0], [1.0], [9.0]]) for name in ("mean",)}
    certain["log_std"] = np.full((5, 1), -50.0)
    drawn = draw(gaussian(Transform.RESCALE), certain, rng())
    np.testing.assert_allclose(drawn[:, 0], [-2.0, -2.0, 1.0, 4.0, 4.0], atol=1e-6)


def test_clip_leaves_unbounded_sides_open() -> None:
    """A bound that is None or infinite cuts nothing."""
    outputs = normal_outputs(0.0, 2.0, rows=1000)
    drawn = draw(gaussian(Transform.CLIP, None, 1.0), outputs, rng())
    assert drawn.max() == 1.0 and drawn.min() < -5.0


@given(
    st.sampled_from([Transform.CLIP, Transform.TANH_RESCALE, Transform.RESCALE]),
    st.floats(-1e3, 1e3, width=32),
    st.floats(0.125, 1e3),
    st.floats(-50, 50),
    st.floats(-20, 5),
)
def test_a_transformed_action_never_leaves_its_bounds(
    transform: Transform, low: float, span: float, mean: float, log_std: float
) -> None:
    """In the action's own float32, after every rounding."""
    high = float(np.float32(low) + np.float32(span))
    contract = gaussian(transform, float(np.float32(low)), high)
    drawn = draw(contract, normal_outputs(mean, log_std, rows=16), rng())
    assert (drawn >= np.float32(low)).all() and (drawn <= np.float32(high)).all()


def test_a_seed_reproduces_a_draw_and_another_does_not() -> None:
    """PCG64 with the same seed: the same actions to the bit."""
    outputs = normal_outputs(0.0, 0.0, rows=64)
    contract = gaussian(Transform.NONE)
    np.testing.assert_array_equal(draw(contract, outputs, rng(1)), draw(contract, outputs, rng(1)))
    assert (draw(contract, outputs, rng(1)) != draw(contract, outputs, rng(2))).any()


def test_a_seeded_draw_is_what_earlier_versions_drew() -> None:
    """Logged seeds stay good: these values are part of the interface."""
    logits = np.zeros((8, 4))
    assert draw(categorical(4), {"logits": logits}, rng(42))[:, 0].tolist() == [3, 1, 3, 2, 0, 3, 3, 3]
    drawn = draw(gaussian(Transform.NONE), normal_outputs(0.0, 0.0, rows=3), rng(42))
    np.testing.assert_allclose(drawn[:, 0], [0.304717, -1.039984, 0.750451], atol=1e-6)


def test_a_deterministic_policy_has_nothing_to_draw() -> None:
    """The refusal says so, and what to do."""
    contract = Contract(OBSERVATION, (TensorSpec("action", "float32", (1,)),), ActionKind.CONTINUOUS, Distribution())
    with pytest.raises(UsageError, match="deterministic") as caught:
        parameters_of(contract)
    assert "deterministic=True" in caught.value.remedy


@pytest.mark.parametrize(
    ("contract", "outputs"),
    [
        (categorical(2), {"logits": np.array([[0.0, np.nan]])}),
        (categorical(2), {"logits": np.array([[-np.inf, -np.inf]])}),
        (categorical(2), {"logits": np.array([[np.inf, 0.0]])}),
        (gaussian(Transform.CLIP), {"mean": np.array([[np.nan]]), "log_std": np.array([[0.0]])}),
    ],
)
def test_parameters_that_define_no_law_are_not_drawn_from(contract: Contract, outputs: dict[str, np.ndarray]) -> None:
    """NaN, and logits that leave no choice: an error instead of an arbitrary action."""
    with pytest.raises(ServerError, match="answered"):
        draw(contract, outputs, rng())


@pytest.mark.parametrize("seed", [-1, "x", 1.5, True])
def test_what_seeds_no_draw_is_refused_before_anything_is_sent(seed: object) -> None:
    """A wrong seed is the caller's error, and no request's."""
    with pytest.raises(UsageError, match="seed is"):
        check_seed(seed)  # type: ignore[arg-type]
