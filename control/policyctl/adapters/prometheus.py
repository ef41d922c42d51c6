"""What a Prometheus that scrapes Triton has seen of one slot.

Counters are read as they were scraped (a range of raw samples), never as rates
that the server extrapolates: a share of failed requests needs whole requests.
Series of several servers stay apart, because a counter that starts again would
hide in a sum.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote, urlencode, urlsplit

from urllib3.exceptions import HTTPError
from urllib3.util import make_headers

from policyctl.adapters.web import Web
from policyctl.domain.bake import Reading
from policyctl.domain.protocol import REFUSED_METRIC
from policyctl.errors import ServerError, connection_text

TIMEOUT_S: Final = 5
"""For one answer; what is asked again and again needs no second attempt, which would keep a bake waiting."""
_MOST_BYTES: Final = 64 << 20
_SUCCESS: Final = "nv_inference_request_success"
_FAILURE: Final = "nv_inference_request_failure"
_DURATION: Final = "nv_inference_request_duration_us"
_PROBES: Final = "policyctl_probe_requests_total"

_APART: Final = frozenset({"__name__", "reason", "process"})
"""Labels by which one server's counters of one thing differ."""

Series = tuple[tuple[str, str], ...]
"""The labels that tell one server's counters from another's."""


@dataclass(frozen=True, slots=True)
class Prometheus:
    """One Prometheus.

    Attributes:
        url: Of its HTTP API's root.
        token: Sent as a bearer token; empty for none.
    """

    url: str
    token: str = ""

    @property
    def name(self) -> str:
        """Which one, without credentials that its URL may hold."""
        parts = urlsplit(self.url)
        return f"Prometheus at {parts.hostname or self.url}" + (f":{parts.port}" if parts.port else "")

    def slot(self, served: str, slot: int, *, since: float, until: float) -> tuple[tuple[Reading, ...], ...]:
        """Counters of one slot, of each server that was scraped.

        Args:
            served: The Triton model.
            slot: Which of its versions.
            since: Seconds since 1970.
            until: Seconds since 1970.

        Raises:
            ServerError: It does not answer, or not as a Prometheus does.
        """
        labels = f'model="{served}",version="{slot}"'
        # What its client took back is nobody's failure.
        kept = {_FAILURE: f'{labels},reason!="CANCELED"'}
        succeeded, failed, took, refused = (
            self._samples(f"{name}{{{kept.get(name, labels)}}}", since, until)
            for name in (_SUCCESS, _FAILURE, _DURATION, REFUSED_METRIC)
        )
        found = []
        for key, series in sorted(succeeded.items()):
            others = [each.get(key, {}) for each in (failed, took, refused)]
            rows = ((at, value, *(each.get(at, 0.0) for each in others)) for at, value in sorted(series.items()))
            found.append(tuple(Reading(at, round(s), round(f), t, round(r)) for at, s, f, t, r in rows))
        return tuple(found)

    def probes(self, model: str, alias: str, *, since: float, until: float) -> dict[str, int]:
        """How many golden probes of an alias ended how, by policyctl's own exporter; empty where it is not scraped.

        Raises:
            ServerError: It does not answer.
        """
        found: dict[str, int] = {}
        for outcome in ("answered", "wrong", "failed"):
            query = f'{_PROBES}{{model="{model}",alias="{alias}",outcome="{outcome}"}}'
            for series in self._samples(query, since, until).values():
                values = [value for _, value in sorted(series.items())]
                steps = itertools.pairwise(values)
                found[outcome] = found.get(outcome, 0) + round(sum(max(0.0, b - a) for a, b in steps))
        return found

    def require(self) -> None:
        """Refuse one that does not answer.

        Raises:
            ServerError: It does not.
        """
        self._query("vector(1)", None)

    def _samples(self, selector: str, since: float, until: float) -> dict[Series, dict[float, float]]:
        """Raw samples by series; those of one server that differ by reason or process are added up."""
        found: dict[Series, dict[float, float]] = {}
        span_ms = max(1, round((until - since) * 1e3))
        for row in self._query(f"{selector}[{span_ms}ms]", until):
            key = _key(row["metric"])
            series = found.setdefault(key, {})
            for at, value in row["values"]:
                series[float(at)] = series.get(float(at), 0.0) + float(value)
        return found

    def _query(self, query: str, at: float | None) -> list[dict[str, Any]]:
        fields = {"query": query} if at is None else {"query": query, "time": str(at)}
        url = f"{self.url.rstrip('/')}/api/v1/query?{urlencode(fields)}"
        try:
            answer = Web().send("GET", url, headers=self._headers(), limit_s=TIMEOUT_S)
            with closing(answer):
                content = answer.read(_MOST_BYTES)
            if answer.status != HTTPStatus.OK:
                raise ValueError(f"it answers {answer.status}: {content[:200].decode('utf-8', 'replace')}")
            found: list[dict[str, Any]] = json.loads(content)["data"]["result"]
        except (HTTPError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise ServerError(
                f"{self.name} cannot be asked: {connection_text(error)[:300]}",
                remedy="Check POLICYCTL_BAKE__PROMETHEUS, and that it runs.",
            ) from error
        return found

    def _headers(self) -> dict[str, str]:
        if self.token:
            return {"Authorization": f"Bearer {self.token}"}
        user = urlsplit(self.url)
        if user.username is None:
            return {}
        return make_headers(basic_auth=f"{unquote(user.username)}:{unquote(user.password or '')}")


def _key(labels: Mapping[str, str]) -> Series:
    return tuple(sorted((name, value) for name, value in labels.items() if name not in _APART))
