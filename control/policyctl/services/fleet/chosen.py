"""Which release of a store a number means, and what it changes for the clients of an alias."""

from __future__ import annotations

import json
from collections.abc import Mapping

from policyctl.adapters.bucket import Bucket
from policyctl.adapters.bucket_releases import BucketReleases
from policyctl.domain import versions
from policyctl.domain.artifacts import CONTRACT_FILE
from policyctl.domain.compatibility import Difference, compare
from policyctl.domain.contract import Contract
from policyctl.domain.fleet import StoredRelease
from policyctl.domain.oci import read_artifact
from policyctl.errors import IntegrityError, UsageError
from policyctl.services.control import Say


def choose(bucket: Bucket, model: str, text: str, *, named: Mapping[str, str], say: Say) -> StoredRelease:
    """The release that `text` means: a number, a range, or an alias of `named`, which maps aliases to numbers.

    Raises:
        UsageError: The store holds none.
        IntegrityError: What lies under the number is another release.
        ServerError: The store does not answer.
    """
    releases = BucketReleases(bucket)
    numbers = releases.releases(model)
    chosen = versions.select(text, numbers, named)
    if chosen is None:
        have = ", ".join(sorted(numbers, key=versions.parse)) or "none"
        raise UsageError(
            f"{bucket.url} holds no release {text!r} of {model}",
            remedy=f"It holds: {have}. Put one there: policyctl release export {model} RELEASE {bucket.url}",
        )
    if chosen != text:
        say(f"{text} of {model} is {chosen}.")
    artifact = read_artifact(releases.manifest(f"{model}:{chosen}"))
    if (artifact.model, artifact.release) != (model, chosen):
        raise IntegrityError(
            f"{bucket.url}: {model}:{chosen} is {artifact.model} {artifact.release}",
            remedy=f"Put the release there again: policyctl release export {model} {chosen} {bucket.url}",
        )
    return StoredRelease(chosen, artifact.digest, artifact.config.digest)


def changes(bucket: Bucket, incumbent: StoredRelease, target: StoredRelease) -> tuple[Difference, ...]:
    """What differs between the contracts of two releases.

    Raises:
        IntegrityError: One of them has no contract.
        ServerError: The store does not answer.
    """
    return compare(_contract(bucket, incumbent), _contract(bucket, target))


def _contract(bucket: Bucket, release: StoredRelease) -> Contract:
    releases = BucketReleases(bucket)
    artifact = read_artifact(releases.manifest(release.artifact))
    try:
        entry = next(each for each in artifact.files if each.path == CONTRACT_FILE)
        return Contract.from_json(json.loads(releases.read(entry)))
    except (StopIteration, ValueError, UsageError) as error:
        raise IntegrityError(f"{releases}: {artifact.model} {artifact.release} has no contract ({error})") from error
