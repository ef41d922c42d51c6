"""Remove from a node what its settings do not keep and the store holds: it is fetched again where it is wanted."""

from __future__ import annotations

from collections.abc import Container
from contextlib import suppress

from policyctl.adapters.bucket import Bucket
from policyctl.adapters.bucket_releases import BucketReleases
from policyctl.domain.fleet import FleetState
from policyctl.domain.oci import read_artifact
from policyctl.domain.retention import ReleaseKey
from policyctl.domain.state import PublishedRelease
from policyctl.errors import PolicyctlError
from policyctl.services.control import Control
from policyctl.services.releases.gc import gc


def collect(control: Control, bucket: Bucket, state: FleetState) -> tuple[PublishedRelease, ...]:
    """Remove the files of what is not needed here, as `policyctl gc` does.

    What the store does not hold byte for byte stays: somebody published it here alone.

    Args:
        control: The control plane of the node's own repository.
        bucket: Of the store.
        state: What the store's journal says; what it may name next stays as well.

    Raises:
        PolicyctlError: As `gc`.
    """
    store, needed = BucketReleases(bucket), _needed(control, state)
    chosen = {
        (release.model, release.release)
        for release in gc(control).collect
        if (release.model, release.release) not in needed and _is_stored(store, release)
    }
    return gc(control, delete=True, only=chosen).collect if chosen else ()


def _needed(control: Control, state: FleetState) -> Container[ReleaseKey]:
    """What an open move goes to, and what an alias of the store can be rolled back to."""
    back = control.settings.retention.rollbacks + 1
    trails = ((model, release) for (model, _), named in state.aliases.items() for release in named.trail[-back:])
    targets = ((opened.move.model, opened.move.target) for opened in state.open.values())
    return {(model, release.release) for model, release in (*trails, *targets) if release is not None}


def _is_stored(store: BucketReleases, release: PublishedRelease) -> bool:
    with suppress(PolicyctlError):
        artifact = read_artifact(store.manifest(f"{release.model}:{release.release}"))
        return artifact.config.digest == release.manifest_digest and all(map(store.has, artifact.files))
    return False
