"""What a release of policyctl has besides its wheel: bill of materials, notes, the site, digests.

    python release/release_files.py dist
    python release/release_files.py dist --tag v0.1.0

It reads the wheel in the folder, and `build/site`. The bill of materials lists
what the wheel requires, in the versions of this environment: with those the
tests ran. A tag has to be the version, and its changes have to be dated.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Iterable, Iterator
from datetime import datetime
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from policyctl import __version__

ROOT = Path(__file__).resolve().parents[1]
NAME = "policyctl"
EXTRAS = ("http", "serve", "sb3", "evaluate", "report", "card", "tune", "api", "sign", "docker", "store")
"""What people install; `tensorrt` is for machines with a GPU, and the rest is for this tree."""


class WrongReleaseError(Exception):
    """What stands in the way of a release, in a sentence."""


def required(own: Distribution, extras: Iterable[str] = ()) -> dict[str, set[str]]:
    """What `own` requires with `extras`, and what that requires; each with what it requires by itself.

    Raises:
        importlib.metadata.PackageNotFoundError: A package is missing here.
    """
    found: dict[str, set[str]] = {}
    done: set[tuple[str, str]] = set()
    waiting = [(canonicalize_name(own.name), extra) for extra in ("", *extras)]
    while waiting:
        name, extra = waiting.pop()
        needs = found.setdefault(name, set())
        if (name, extra) in done:
            continue
        done.add((name, extra))
        for text in (own if name == canonicalize_name(own.name) else distribution(name)).requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                needed = canonicalize_name(requirement.name)
                needs.add(needed)
                waiting += [(needed, more) for more in ("", *requirement.extras)]
    return found


def bill_of_materials(wheel: Path, *, made: datetime) -> str:
    """CycloneDX 1.6, as JSON: the wheel, what it requires, and as optional what its extras add.

    Args:
        wheel: Of this version.
        made: The time that the document names.
    """
    with zipfile.ZipFile(wheel) as archive:
        own = PathDistribution(zipfile.Path(archive, f"{NAME}-{__version__}.dist-info/"))
        core, everything = required(own), required(own, EXTRAS)
    digest = _sha256(wheel)
    main = Component(
        type=ComponentType.APPLICATION,
        name=NAME,
        version=__version__,
        bom_ref=NAME,
        purl=PackageURL("pypi", None, NAME, __version__),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
    )
    others = {name: _component(name, optional=name not in core) for name in sorted(everything) if name != NAME}
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"{NAME}:{digest}"), components=others.values())
    bom.metadata.timestamp = made
    bom.metadata.component = main
    for name, needs in everything.items():
        bom.register_dependency(others.get(name, main), [others[need] for need in sorted(needs - {NAME})])
    return JsonV1Dot6(bom).output_as_string(indent=2) + "\n"


def _component(name: str, *, optional: bool) -> Component:
    installed = distribution(name)
    licence = installed.metadata["License-Expression"]
    return Component(
        type=ComponentType.LIBRARY,
        name=name,
        version=installed.version,
        bom_ref=name,
        scope=ComponentScope.OPTIONAL if optional else ComponentScope.REQUIRED,
        purl=PackageURL("pypi", None, name, installed.version),
        licenses=[LicenseFactory().make_from_string(licence)] if licence else None,
    )


def notes(changelog: str, *, tag: str | None) -> str:
    """What the changelog says of this version.

    Args:
        changelog: Its text.
        tag: Of the release; None for a trial.

    Raises:
        WrongReleaseError: The tag is of another version, or the changes are missing or not released.
    """
    if tag is not None and tag != f"v{__version__}":
        raise WrongReleaseError(f"the tag is {tag}, expected v{__version__}: change the one or the other")
    section = re.search(rf"^## {re.escape(__version__)}\b(.*)\n((?:(?!## ).*\n)*)", changelog, re.MULTILINE)
    if section is None:
        raise WrongReleaseError(f"CHANGELOG.md has no section {__version__}: write what changed")
    if tag is not None and "unreleased" in section[1]:
        raise WrongReleaseError(f"CHANGELOG.md calls {__version__} unreleased: write the date there")
    return section[2].strip() + "\n"


def write(folder: Path, *, site: Path, tag: str | None) -> Iterator[Path]:
    """Write every file of the release but the wheel; yield each.

    Args:
        folder: Has the wheel.
        site: What `make site` built; packed.
        tag: Of the release; None for a trial.

    Raises:
        WrongReleaseError: Nothing may be released as it is.
    """
    text = notes((ROOT / "CHANGELOG.md").read_text(), tag=tag)
    wheels = [*folder.glob(f"{NAME}-{__version__}-*.whl")]
    if len(wheels) != 1:
        raise WrongReleaseError(f"{folder} has {len(wheels)} wheels of {__version__}, expected one: make wheel")
    if not (site / "index.html").is_file():
        raise WrongReleaseError(f"{site} has no page: make site")
    commit = ("git", "log", "-1", "--format=%cI")
    made = datetime.fromisoformat(
        subprocess.run(commit, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    )
    (folder / "NOTES.md").write_text(text)
    bom = folder / f"{NAME}-{__version__}.cdx.json"
    bom.write_text(bill_of_materials(*wheels, made=made))
    packed = Path(shutil.make_archive(str(folder / f"{NAME}-{__version__}-site"), "zip", site))
    released = [*wheels, bom, packed]
    sums = folder / "SHA256SUMS"
    sums.write_text("".join(f"{_sha256(file)}  {file.name}\n" for file in released))
    yield from (folder / "NOTES.md", *released, sums)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def main() -> int:
    """Write them and print their names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="with the wheel; the files are written there")
    parser.add_argument("--tag", help="of the release; without one it is a trial")
    given = parser.parse_args()
    try:
        for file in write(given.folder, site=ROOT / "build" / "site" / "site", tag=given.tag or None):
            sys.stdout.write(f"{file}\n")
    except WrongReleaseError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
