"""Carry out a request, or look, through a control API instead of on a repository here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from policyctl.adapters.control_api import ControlApi, error_of
from policyctl.domain.json_values import from_json
from policyctl.domain.operations import Done
from policyctl.services.rollout.request import AliasRequest

if TYPE_CHECKING:
    from policyctl.services.show.status import Status

_WAIT_S: Final = 2.0
"""How long one look at an operation waits for its end: what is said on the way is passed on so often."""
_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Remote:
    """The control plane of a repository elsewhere.

    Attributes:
        api: Where.
        say: Where words for people go, a line a call.
    """

    api: ControlApi
    say: Callable[[str], None]

    def carry_out(self, request: AliasRequest) -> Done:
        """Have a request carried out over there.

        Raises:
            PolicyctlError: As `services.rollout.here`; and `ServerError` where no control API answers.
        """
        answer = self.api.post(f"/v1/models/{_part(request.model)}/{request.kind}s", request.body)
        if answer.status == 200:  # a dry run
            for line in answer.document["messages"]:
                self.say(line)
            return Done(answer.document["result"], answer.document["words"])
        return self._follow(answer.document["id"])

    def _follow(self, name: str) -> Done:
        """Wait for an operation and pass on what is said on the way."""
        said = 0
        try:
            while True:
                operation = self.api.get(f"/v1/operations/{name}", {"wait": _WAIT_S}, wait_s=_WAIT_S, begun=True)
                for line in operation["messages"][said:]:
                    self.say(line)
                said = max(said, len(operation["messages"]))
                refusal = None if operation["error"] is None else error_of(operation["error"])
                if operation["result"] is not None:
                    return Done(operation["result"], operation["words"], refusal)
                if refusal is not None:
                    raise refusal
                time.sleep(0.01)  # however quickly it answers
        except KeyboardInterrupt:
            self.say(f"Operation {name} goes on over there: {self.api.url}/v1/operations/{name}")
            raise

    def status(self, *, model: str | None) -> Status:
        """As `services.show.status.status`.

        Raises:
            PolicyctlError: As there; and `ServerError` where no control API answers.
        """
        from policyctl.services.show.status import Status

        document = self.api.get("/v1/status", {"model": model})
        return from_json(Status, document, what="status of the control API", unknown_keys=True)

    def history(self, *, model: str | None, limit: int | None) -> tuple[dict[str, Any], ...]:
        """As `services.show.status.history`; only the last `limit` records where that is given.

        Raises:
            PolicyctlError: As there; and `ServerError` where no control API answers.
        """
        found: list[dict[str, Any]] = []
        before: int | None = None
        while limit is None or len(found) < limit:
            asked = _PAGE if limit is None else min(_PAGE, limit - len(found))
            page = self.api.get("/v1/history", {"model": model, "limit": asked, "before": before})
            found = page["records"] + found
            before = page["before"]
            if before is None:
                break
        return tuple(found)


def _part(text: str) -> str:
    """One part of a path, whatever was typed."""
    return quote(text, safe="") or "%20"
