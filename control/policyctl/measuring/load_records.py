"""What a load on a server saw, request by request, and what that adds up to.

Times are ``CLOCK_MONOTONIC``, which all processes of a machine share, so the
requests of a load can be laid over what a promotion did meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

_SAMPLES = 5


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a load.

    Attributes:
        start_ns: When it was sent, CLOCK_MONOTONIC.
        end_ns: When its answer, or its error, was there.
        slot: Which slot answered; 0 for an error.
        release: Which release answered; empty for an error.
        error: Why there is no answer; empty where there is one.
        checked: The right answer of this release to this observation was known.
        wrong: It was known, and this was not it.
        client: Which client asked; each asks one question after another.
        generation: Of the alias, where a node of a fleet answered; else 0.
    """

    start_ns: int
    end_ns: int
    slot: int = 0
    release: str = ""
    error: str = ""
    checked: bool = False
    wrong: bool = False
    client: int = 0
    generation: int = 0


@dataclass(frozen=True, slots=True)
class AliasSpan:
    """An alias named `release` from `from_ns` to `to_ns` (None: until now), CLOCK_MONOTONIC."""

    release: str
    from_ns: int
    to_ns: int | None = None


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a load adds up to.

    Attributes:
        requests: All of them, failed ones too.
        failed: Without an answer.
        wrong: Answered, but not with what the release that answered must answer.
        unchecked: Answered, but the right answer was not known.
        by_release: Answers of each release.
        duration_s: From the first request's start to the last one's end.
        throughput_per_s: Answers a second.
        p50_us: Latency of answers, microseconds; 0 without any.
        p95_us: See `p50_us`.
        p99_us: See `p50_us`.
        max_us: See `p50_us`.
        unfit: Observations that the served contract did not take, and that
            were replaced by others; no request was sent.
        errors: The most frequent errors, with how often each came.
    """

    requests: int
    failed: int
    wrong: int
    unchecked: int
    by_release: dict[str, int]
    duration_s: float
    throughput_per_s: float
    p50_us: float
    p95_us: float
    p99_us: float
    max_us: float
    unfit: int
    errors: tuple[tuple[str, int], ...]

    @property
    def clean(self) -> bool:
        """Whether every request was answered, and none known to be wrong; there was one."""
        return self.requests > 0 and self.failed == 0 and self.wrong == 0


def report(requests: Sequence[Request], *, unfit: int = 0) -> LoadReport:
    """Add up `requests`, in any order."""
    answers = [request for request in requests if not request.error]
    latencies = np.array([r.end_ns - r.start_ns for r in answers], dtype=np.float64) / 1e3
    duration_s = 0.0
    if requests:
        duration_s = (max(r.end_ns for r in requests) - min(r.start_ns for r in requests)) / 1e9
    quantiles = [float(q) for q in np.percentile(latencies, (50, 95, 99, 100))] if answers else [0.0] * 4
    return LoadReport(
        requests=len(requests),
        failed=len(requests) - len(answers),
        wrong=sum(request.wrong for request in answers),
        unchecked=sum(not request.checked for request in answers),
        by_release=dict(sorted(Counter(request.release for request in answers).items())),
        duration_s=duration_s,
        throughput_per_s=len(answers) / duration_s if duration_s else 0.0,
        p50_us=quantiles[0],
        p95_us=quantiles[1],
        p99_us=quantiles[2],
        max_us=quantiles[3],
        unfit=unfit,
        errors=tuple(Counter(r.error for r in requests if r.error).most_common(_SAMPLES)),
    )


def answers_outside_aliases(requests: Iterable[Request], timeline: Sequence[AliasSpan]) -> int:
    """How many answers came from a release that no alias named while they were under way.

    A request overlaps a switch by its very duration, so an answer counts as
    rightful if an alias named its release at any moment from sending to having
    it, ends included.

    Args:
        requests: Failed ones are left out.
        timeline: What aliases named, and when.
    """
    spans: dict[str, list[AliasSpan]] = {}
    for span in timeline:
        spans.setdefault(span.release, []).append(span)
    return sum(
        not any(
            span.from_ns <= request.end_ns and (span.to_ns is None or span.to_ns >= request.start_ns)
            for span in spans.get(request.release, ())
        )
        for request in requests
        if not request.error
    )


def answers_older_than_seen(requests: Iterable[Request]) -> int:
    """How many answers of a fleet were of an older generation than one that the same client had before.

    Args:
        requests: By start; failed ones are left out.
    """
    seen: dict[int, int] = {}
    older = 0
    for request in requests:
        if not request.error:
            older += request.generation < seen.get(request.client, 0)
            seen[request.client] = max(seen.get(request.client, 0), request.generation)
    return older
