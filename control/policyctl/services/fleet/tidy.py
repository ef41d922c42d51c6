"""Remove from a node what its settings do not keep and the store holds: it is fetched again where it is wanted."""

from __future__ import annotations

from collections.abc import Callable, Container
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


def collect(control: Control, bucket: Bucket, state: Callable[[], FleetState]) -> tuple[PublishedRelease, ...]:
    """Remove the files of what is not needed here, as `policyctl gc` does.

    What the store does not hold stays: somebody published it here alone.

    Args:
        control: The control plane of the node's own repository.
        bucket: Of the store.
        state: What the store's journal says by then; what it may name next stays as well.

    Raises:
        PolicyctlError: As `gc`.
    """
    if not control.repository.journal.state().releases:
        return ()
    store = BucketReleases(bucket)
    stored = {(each.model, each.release) for each in gc(control).collect if _is_stored(store, each)}
    if not stored:
        return ()
    done = gc(control, delete=True, only=lambda key: key in stored and key not in _needed(control, state()))
    return done.collect


def _needed(control: Control, state: FleetState) -> Container[ReleaseKey]:
    """What an open move goes to, and what an alias of the store can be rolled back to."""
    back = control.settings.retention.rollbacks + 1
    trails = ((model, release) for (model, _), named in state.aliases.items() for release in named.trail[-back:])
    targets = ((opened.move.model, opened.move.target) for opened in state.open.values())
    return {(model, release.release) for model, release in (*trails, *targets) if release is not None}


def _is_stored(store: BucketReleases, release: PublishedRelease) -> bool:
    """Whether the store has the manifest, and files of the sizes that it names."""
    with suppress(PolicyctlError):
        artifact = read_artifact(store.manifest(f"{release.model}:{release.release}"))
        return artifact.config.digest == release.manifest_digest and all(map(store.has, artifact.files))
    return False
