"""How a release is served: what is set, else what was tuned for the model, else the defaults.

What `policyctl tune` found better is one record of the journal, so it is known
who measured what and when, it is the same for everybody who promotes, and it
can be taken back. It moves no alias: the next promotion is configured by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from policyctl.adapters.pbtxt import ServingOptions
from policyctl.domain.journal import RecordKind
from policyctl.errors import UsageError
from policyctl.services.control import Control
from policyctl.settings import ServingSettings

FIELDS: Final = ("max_batch_size", "max_queue_delay_us", "instances", "preferred_batch_sizes", "parameters")
"""What may be tuned."""


def serving_options(serving: ServingSettings, tuned: Mapping[str, Any]) -> ServingOptions:
    """How to serve.

    Args:
        serving: The settings; what was set in them goes before what was tuned.
        tuned: Of the model, by the names of `FIELDS`; may be empty.
    """
    chosen = {
        name: tuned[name] if name in tuned and name not in serving.model_fields_set else getattr(serving, name)
        for name in FIELDS
        if name != "parameters"
    }
    chosen["preferred_batch_sizes"] = tuple(chosen["preferred_batch_sizes"])
    parameters = {**tuned.get("parameters", {}), **serving.parameters}
    return ServingOptions(**chosen, gpu=serving.gpu, parameters=parameters)


def keep(control: Control, model: str, options: Mapping[str, Any] | None, *, reason: str, evidence: str = "") -> None:
    """Remember how a model is best served, or forget it; the caller holds the writer lock.

    Args:
        control: The control plane.
        model: Which model.
        options: By the names of `FIELDS`; None forgets.
        reason: In words.
        evidence: Digest of what was measured.

    Raises:
        UsageError: There is no such option.
    """
    if options is not None and (unknown := options.keys() - set(FIELDS)):
        raise UsageError(f"{', '.join(sorted(unknown))} cannot be tuned")
    body = {"model": model, "options": None if options is None else dict(options), "reason": reason}
    control.repository.journal.append(RecordKind.TUNED, {**body, "evidence_digest": evidence})
