"""What a trained algorithm kept of its last observations, and what that proves about VecNormalize.

An archive never says whether its policy was trained behind a `VecNormalize`.
But Stable-Baselines3 keeps two arrays, here called *original*
(``_last_original_obs``) and *last* (``_last_obs``, what the policy saw), and
each family of algorithms fills them in its own way:

=========== =========================================== ==========================================
family      original                                    last
=========== =========================================== ==========================================
on-policy   None without a VecNormalize; else the raw   of the last step
            observation of the reset that began
            ``learn()``
search      the same                                    of that reset: ARS steps its environment
(ARS)                                                   elsewhere
off-policy  behind a VecNormalize the raw observation   of the last step
(HER too)   of the last step; else that of the step
            before, as the policy saw it
=========== =========================================== ==========================================

``set_env()`` and ``load(env=...)`` forget *last*. A `VecNormalize` whose
``norm_obs`` is False (rewards only) fills both as any other does. So:

=========== ============== ============================= =================================================
family      original       last                          proof
=========== ============== ============================= =================================================
any         any            integers, or float64 where    raw: VecNormalize gives float32
                           it cannot be that
any         None           set                           raw
on-policy   set            of another dtype, or out of   normalized
                           its space
on-policy   set            any other                     wrapped: observations, or rewards only
search      set            equal                         raw (rewards only)
search      set            not equal                     normalized
search      set            None                          wrapped
off-policy  set            equal, not all zeros          raw (rewards only)
off-policy  set            of another dtype, or out of   normalized
                           its space
off-policy  set            any other                     unknown, but statistics can be held against both
any         any            None                          unknown
=========== ============== ============================= =================================================

A VecNormalize file keeps the raw observation of its last step (``old_obs``)
too. Where that was saved at the same step as the archive, its statistics make
*last* of it, for any family that steps its environment itself. So the right
file is proven right for on-policy archives as well; a wrong one is proven wrong
for off-policy ones only, because the steps may differ.

The source is the libraries' own code: ``BaseAlgorithm._setup_learn``,
``OffPolicyAlgorithm._store_transition``, ``OnPolicyAlgorithm.collect_rollouts``,
``ARS.evaluate_candidates`` and ``VecNormalize.normalize_obs``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.images import laid_out
from policyctl_exporters.normalizer import FLAT, Normalizer
from policyctl_exporters.spaces import Observation

Arrays = Mapping[str, NDArray[Any]]

_FAR: Final = 5.0
_ROUNDING: Final = 1e-5


class Family(StrEnum):
    """How an algorithm fills the two arrays."""

    ON_POLICY = "on-policy"
    OFF_POLICY = "off-policy"
    SEARCH = "search"


class Proof(StrEnum):
    """What is certain about the observations that a policy was trained on.

    `UNTRAINED` is a live algorithm that has not learned, in an environment without a VecNormalize.
    """

    RAW = "raw"
    NORMALIZED = "normalized"
    WRAPPED = "wrapped"
    UNKNOWN = "unknown"
    UNTRAINED = "untrained"


class Difference(NamedTuple):
    """Where statistics disagree most: what the policy saw of a feature (C order), and what they make of the raw one."""

    key: str
    feature: int
    expected: float
    given: float


@dataclass(frozen=True, slots=True)
class LastObservations:
    """The two arrays, and what is needed to judge them.

    Attributes:
        family: How they were filled.
        original: By key of a Dict space, `FLAT` else; each (environments, *shape); empty for None.
        last: Likewise.
        space: The policy's observation space.
        casts: Whether the VecNormalize of that version always gives float32.
        otherwise: What is known where the arrays prove nothing: of a live algorithm, its environment.
    """

    family: Family
    space: Any
    original: Arrays = field(default_factory=dict)
    last: Arrays = field(default_factory=dict)
    casts: bool = False
    otherwise: Proof = Proof.UNKNOWN

    def proof(self) -> Proof:
        """What the arrays prove; see the table above."""
        keys = [key for key in self._keys() if self._could_be_normalized(key)]
        if not keys or (self.last and not self.original):
            return Proof.RAW
        if self.family is Family.OFF_POLICY and not self.last:
            return self.otherwise
        if not self.last:
            return Proof.WRAPPED if self.original else self.otherwise
        if self.original.keys() != self.last.keys():
            return Proof.WRAPPED
        equal = self.family is not Family.ON_POLICY and all(_equal(self.original[key], self.last[key]) for key in keys)
        if equal and any(np.any(self.last[key]) for key in keys):
            return Proof.RAW
        if (self.family is Family.SEARCH and not equal) or any(self._shows_normalization(key) for key in keys):
            return Proof.NORMALIZED
        return self.otherwise if self.family is Family.OFF_POLICY else Proof.WRAPPED

    def belongs(self, normalizer: Normalizer) -> bool:
        """Whether statistics are proven to be those of this training.

        The right ones give exactly what the policy saw: of the raw observation
        that an off-policy algorithm kept, or of the one that the statistics'
        own file kept, where both were saved at the same step.
        """
        if self.comparable(normalizer):
            return self.difference(normalizer) is None
        return _fits(normalizer, normalizer.last, self.last) and _worst(normalizer, normalizer.last, self.last) is None

    def difference(self, normalizer: Normalizer) -> Difference | None:
        """The worst disagreement of statistics with both arrays; None where they agree, or nothing can be compared.

        A callback saves the archive before, and the statistics after, the last
        step is taken in; so statistics may also be one step further.
        """
        if not self.comparable(normalizer):
            return None
        now, before = _worst(normalizer, self.original, self.last), normalizer.one_step_before()
        return now if before is None or _worst(before, self.original, self.last) else None

    def comparable(self, normalizer: Normalizer) -> bool:
        """Whether both arrays are of one step, so that any statistics can be held against them."""
        return self.family is Family.OFF_POLICY and _fits(normalizer, self.original, self.last)

    def share_beyond(self, normalizer: Normalizer) -> float | None:
        """Share of raw features beyond 5 standard deviations; None where no raw observation is known."""
        far = [
            np.abs((self.original[key] - statistics.mean) / normalizer.std(key)).reshape(-1) > _FAR
            for key, statistics in normalizer.statistics.items()
            if key in self.original and self.original[key].shape[1:] == statistics.mean.shape
        ]
        return float(np.concatenate(far).mean()) if far else None

    def raw_rows(self, observations: Sequence[Observation]) -> dict[str, NDArray[Any]] | None:
        """Raw observations that the algorithm kept, as the contract's tensors.

        Returns:
            By tensor name, each of shape (n, *spec.shape); None if the archive has none, or they do not fit.
        """
        raw = self.original or (self.last if self.proof() is Proof.RAW else {})
        rows = {}
        for obs in observations:
            values = laid_out(raw[obs.key], tuple(obs.space.shape)) if obs.key in raw else None
            if values is None or values.shape[1:] != tuple(obs.space.shape) or not np.isfinite(values).all():
                return None
            rows[obs.spec.name] = values.reshape(len(values), *obs.spec.shape).astype(obs.spec.dtype)
        return rows if len({len(values) for values in rows.values()}) == 1 else None

    def _keys(self) -> Sequence[str]:
        return list(self.last or self.original) or list(getattr(self.space, "spaces", {FLAT: self.space}))

    def _space_of(self, key: str) -> Any:
        """Of one key; None where the policy sees something else than the environment gives."""
        return getattr(self.space, "spaces", {FLAT: self.space}).get(key)

    def _could_be_normalized(self, key: str) -> bool:
        from gymnasium import spaces

        space, value = self._space_of(key), self.last.get(key)
        if space is not None and not isinstance(space, spaces.Box):
            return False
        return value is None or value.dtype == np.float32 or (value.dtype.kind == "f" and not self.casts)

    def _shows_normalization(self, key: str) -> bool:
        space, original, last = self._space_of(key), self.original[key], self.last[key]
        if original.dtype != last.dtype:
            return True
        return space is not None and _outside(space, last) and not _outside(space, original)


def _fits(normalizer: Normalizer, raw: Arrays, seen: Arrays) -> bool:
    return all(
        key in raw and key in seen and raw[key].shape == seen[key].shape and raw[key].shape[1:] == each.mean.shape
        for key, each in normalizer.statistics.items()
    )


def _worst(normalizer: Normalizer, raw: Arrays, seen: Arrays) -> Difference | None:
    """Where statistics make most clearly something else of raw observations than the policy saw; None where nowhere."""
    worst, found = _ROUNDING, None
    for key in normalizer.statistics:
        expected, given = (values.astype(np.float64) for values in (seen[key], normalizer.apply(key, raw[key])))
        excess = (np.abs(given - expected) / np.maximum(1.0, np.abs(expected))).reshape(len(expected), -1)
        row, feature = np.unravel_index(int(np.argmax(excess)), excess.shape)
        if not excess[row, feature] <= worst:
            worst = float(excess[row, feature])
            values = (part.reshape(len(part), -1)[row, feature] for part in (expected, given))
            found = Difference(key, int(feature), *map(float, values))
    return found


def family_of(policy_class: type[Any]) -> Family:
    """By the class of the policy; the off-policy family proves least, so what is unknown counts as that."""
    names = {base.__name__ for base in policy_class.__mro__}
    if "ARSPolicy" in names:
        return Family.SEARCH
    on_policy = {"ActorCriticPolicy", "MaskableActorCriticPolicy"}
    return Family.OFF_POLICY if on_policy.isdisjoint(names) else Family.ON_POLICY


def _equal(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return one.dtype == other.dtype and np.array_equal(one, other)


def _outside(space: Any, values: NDArray[Any]) -> bool:
    if values.shape[1:] != space.shape:
        return False
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    slack = 1e-3 * np.maximum(1.0, np.minimum(np.abs(low), np.abs(high)))
    return bool(((values < low - slack) | (values > high + slack)).any())
