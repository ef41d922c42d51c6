"""Decide which statistics belong to a Stable-Baselines3 policy, and refuse what is proven wrong.

A policy that was trained behind a VecNormalize acts wrongly without its
statistics, and with those of another. `last_observations` says what an archive
proves; here that is held against what the caller says. Where nothing is proven
the caller must say it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from policyctl.errors import UsageError
from policyctl_exporters.last_observations import LastObservations, Proof
from policyctl_exporters.normalizer import FLAT, Normalizer, Statistics, read_normalizer
from policyctl_exporters.source import Options

_DESPITE: Final = "--despite-archive (despite_archive=True)"
_NAME_IT: Final = "Name the file that VecNormalize.save() wrote (--normalizer FILE, normalizer=FILE)"
_GOALS: Final = ("observation", "desired_goal")


@dataclass(frozen=True, slots=True)
class Choice:
    """The statistics that an export uses.

    Attributes:
        normalizer: None where observations stay as they are.
        file: Name and digest of their file; None where they are live, or absent.
    """

    normalizer: Normalizer | None = None
    file: tuple[str, str] | None = None
    notes: tuple[str, ...] = ()


def choose(seen: LastObservations, options: Options, *, own: Any = None) -> Choice:
    """The statistics for a policy.

    Args:
        own: The VecNormalize that a live algorithm lives in; counts where the caller says nothing.

    Raises:
        UsageError: The caller says nothing where nothing is proven, contradicts
            what is proven, or names statistics of another policy.
    """
    proof = seen.proof()
    if options.normalizer is None and own is not None:
        normalizer, file = read_normalizer(own, trust_pickle=False)
        if normalizer is not None:
            _require_observed(normalizer, "its VecNormalize", options)
        return _fitting(Choice(normalizer, file), seen.space)
    if options.normalizer is None:
        _require_said(proof)
        return Choice()
    normalizer, file = read_normalizer(options.normalizer, trust_pickle=options.trust_pickle)
    if normalizer is None:
        if proof is Proof.NORMALIZED and not options.despite_archive:
            raise UsageError(
                "the last observation that training kept is a normalised one,"
                " so without statistics every action would be wrong",
                remedy=f"{_NAME_IT}. To export the bare network all the same: {_DESPITE}.",
            )
        return Choice()
    what = file[0] if file else "the normalizer"
    _require_observed(normalizer, what, options)
    notes = () if options.despite_archive else _held_against(seen, proof, normalizer, what)
    return _fitting(Choice(normalizer, file, notes), seen.space)


def _require_said(proof: Proof) -> None:
    only_rewards = "say that only rewards were normalised (--no-normalizer, normalizer=False)"
    if proof in (Proof.NORMALIZED, Proof.WRAPPED):
        raise UsageError(
            "this policy was trained behind a VecNormalize, and without its statistics every action would be wrong",
            remedy=f"{_NAME_IT}{'.' if proof is Proof.NORMALIZED else f', or {only_rewards}.'}",
        )
    if proof is Proof.UNKNOWN:
        raise UsageError(
            "nothing says whether this policy was trained behind a VecNormalize;"
            " if it was, every action would be wrong without its statistics",
            remedy=f"{_NAME_IT}, or say that its observations were not normalised (--no-normalizer, normalizer=False).",
        )


def _require_observed(normalizer: Normalizer, what: str, options: Options) -> None:
    if any(statistics.fresh for statistics in normalizer.statistics.values()) and not options.despite_archive:
        raise UsageError(
            f"{what} has seen no observation: its statistics are those of a new VecNormalize",
            remedy=f"{_NAME_IT}, or load it: VecNormalize.load(FILE, env). To use it all the same: {_DESPITE}.",
        )


def _held_against(seen: LastObservations, proof: Proof, normalizer: Normalizer, what: str) -> tuple[str, ...]:
    """Refuse statistics that training contradicts; say how sure the others are."""
    if proof is Proof.RAW:
        raise UsageError(
            f"training kept observations that were not normalised, and {what} would change every action",
            remedy=f"Leave the normalizer out. To use it all the same: {_DESPITE}.",
        )
    if difference := seen.difference(normalizer):
        where = f"feature {difference.feature}" + (f" of {difference.key}" if difference.key != FLAT else "")
        raise UsageError(
            f"{what} does not give what this policy saw: it makes {difference.given:.4g} of {where} of the last"
            f" observation, which was {difference.expected:.4g} in training",
            remedy="It belongs to another policy, or to another moment of this training: statistics move on. Name the"
            " file that was saved together with this archive, or say that its observations were not normalised"
            f" (--no-normalizer, normalizer=False). To use it all the same: {_DESPITE}.",
        )
    if seen.belongs(normalizer):
        return (f"{what} gives the last observation that training kept: it belongs to this policy",)
    share = seen.share_beyond(normalizer)
    if share is None:
        return (f"nothing proves that {what} belongs to this policy, and no raw observation of it was kept",)
    return (
        f"nothing proves that {what} belongs to this policy; of its last raw observations {share:.1%} of the features"
        " lie beyond 5 standard deviations",
    )


def _fitting(choice: Choice, space: Any) -> Choice:
    """The statistics of what the policy observes, which can be part of what VecNormalize saw."""
    normalizer, own = choice.normalizer, getattr(space, "spaces", None)
    if normalizer is None or FLAT in normalizer.statistics:
        return choice
    statistics = normalizer.statistics
    if own is not None:
        unused = sorted(statistics.keys() - own.keys())
        if not unused or len(unused) == len(statistics):
            return choice
        kept = {key: value for key, value in statistics.items() if key in own}
        note = f"the policy does not observe {', '.join(unused)}, whose statistics are left out"
    else:
        chosen = [key for key, value in statistics.items() if value.mean.shape == space.shape]
        parts = [statistics[key] for key in _GOALS if key in statistics]
        if len(chosen) == 1:
            kept, note = {FLAT: statistics[chosen[0]]}, f"the policy's observation is taken for {chosen[0]!r}"
        elif len(parts) == len(_GOALS) and (sum(part.mean.size for part in parts),) == space.shape:
            # What HER fed its policy with before policies took Dict observations.
            mean, var = (np.concatenate([np.ravel(getattr(p, name)) for p in parts]) for name in ("mean", "var"))
            kept, note = (
                {FLAT: Statistics(mean, var)},
                "the policy's observation is taken for observation + desired_goal",
            )
        else:
            shapes = ", ".join(f"{key} {value.mean.shape}" for key, value in statistics.items())
            raise UsageError(
                f"the normalizer has statistics by key ({shapes}), and the policy observes one array of shape"
                f" {space.shape}, which none of them is alone",
                remedy="From Python, pass the statistics of that array: normalizer=Normalizer({'': Statistics(mean,"
                " var)}, clip_obs=..., epsilon=...).",
            )
    return replace(choice, normalizer=replace(normalizer, statistics=kept), notes=(*choice.notes, note))
