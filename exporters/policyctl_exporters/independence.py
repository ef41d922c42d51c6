"""Each observation is answered by itself: not by who asked before, nor by who asks at the same time.

A server puts the observations of several clients into one batch. A policy
whose answer to one row depends on the others is served one row at a time; one
whose answers depend on the order of its calls is refused.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from policyctl.domain.parity import compare
from policyctl.errors import UnsupportedError
from policyctl_exporters import parity
from policyctl_exporters.observations import Batch, answered, edges, few, in_batches, join, take, wide
from policyctl_exporters.source import Source

_ROWS = 16
_WHY = "it branches on values, fails on several rows, or a row changes the answer to another"


def settled(source: Source) -> Source:
    """The source, limited to one row an inference if rows of a batch change one another's answers.

    Raises:
        UnsupportedError: It answers the same rows differently in another order.
    """
    rows = few(source.contract.observations, source.scales, rows=_ROWS)
    backwards = np.arange(_ROWS)[::-1]
    alone = in_batches(source.reference, rows, 1)
    limit = source.contract.max_batch
    if not _are_apart(source, rows, alone) and limit is None:
        limit = 1
    # After the extremes, which may set off what lasts.
    again = take(in_batches(source.reference, take(rows, backwards), 1), backwards)
    if not compare(source.contract, alone, again, parity.fitted(alone)).agrees:
        raise UnsupportedError(
            f"{source.algorithm} answers the same observations differently in another order,"
            " so it keeps state or draws random numbers, though none of its attributes shows it",
            remedy="Export a policy that answers from the observation alone.",
        )
    if limit is None:
        return source
    return replace(
        source,
        contract=replace(source.contract, max_batch=limit),
        reference=lambda observations: in_batches(source.reference, dict(observations), limit),
        notes=(*source.notes, f"{source.algorithm} is served one row at a time: {_WHY}"),
    )


def _are_apart(source: Source, rows: Batch, alone: Batch) -> bool:
    """Whether rows are answered as if alone: in pairs, all together, and in the company of extreme ones."""
    specs = source.contract.observations
    far = take(wide(specs, np.random.default_rng(0)), slice(0, None, 8))
    extremes = join(edges(specs, source.scales, source.clip_obs), far)
    extremes, _ = answered(lambda batch: in_batches(source.reference, batch, 1), extremes)
    batches = (
        in_batches(source.reference, rows, 2),
        source.reference(rows),
        take(source.reference(join(rows, extremes)), slice(0, _ROWS)),
    )
    return all(compare(source.contract, alone, batch, parity.fitted(alone)).agrees for batch in batches)
