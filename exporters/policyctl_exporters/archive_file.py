"""Open the zip file that ``algorithm.save()`` writes, within bounds.

An archive comes from others. So it must be a plain file, each member is read up
to a limit whatever its header claims, names must be plain and unique, and JSON
that is nested too deeply is refused in words. Nothing is unpickled here, and
nothing is written to disk.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

from policyctl.errors import UsageError
from policyctl_exporters.plain_files import open_plain

_MOST_FILE_BYTES: Final = 8 << 30
_MOST_DATA_BYTES: Final = 32 << 20
_MOST_WEIGHT_BYTES: Final = 1 << 30
_MOST_TEXT_BYTES: Final = 1 << 16
_MOST_MEMBERS: Final = 1000


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """The zip file of an algorithm, open for reading.

    Attributes:
        name: File name without its folder.
        digest: Of the whole file.
        data: What the algorithm's attributes were, by name, as JSON has them.
        info: ``system_info.txt``; empty without that file.
        version: Of Stable-Baselines3; empty where the archive does not say.
    """

    name: str
    digest: str
    data: dict[str, Any]
    info: str
    version: str
    _zip: zipfile.ZipFile

    def weights(self) -> bytes:
        """Content of ``policy.pth``.

        Raises:
            UsageError: It is missing, damaged, or would unpack to more than a policy has.
        """
        with _refusals(self.name):
            content = _member(self._zip, "policy.pth", _MOST_WEIGHT_BYTES)
            if zipfile.is_zipfile(io.BytesIO(content)):
                with zipfile.ZipFile(io.BytesIO(content)) as inner:
                    unpacked = sum(member.file_size for member in inner.infolist())
                if unpacked > _MOST_WEIGHT_BYTES:
                    raise ValueError(f"policy.pth unpacks to {unpacked} bytes, at most {_MOST_WEIGHT_BYTES} are read")
            return content


@contextmanager
def open_archive(path: Path) -> Iterator[ArchiveFile]:
    """Open an archive and read what it says about itself.

    Args:
        path: What ``algorithm.save()`` wrote.

    Raises:
        UsageError: It cannot be read, or is not such an archive.
    """
    with open_plain(path, most_bytes=_MOST_FILE_BYTES) as file:
        with _refusals(path.name):
            opened = _read_header(file, path.name)
        yield opened


def _read_header(file: BufferedReader, name: str) -> ArchiveFile:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    _check_names(names)
    data = json.loads(_member(archive, "data", _MOST_DATA_BYTES))
    if not isinstance(data, dict):
        raise ValueError("its data is not a JSON object")
    info, version = (
        _member(archive, text, _MOST_TEXT_BYTES).decode("utf-8", "replace") if text in names else ""
        for text in ("system_info.txt", "_stable_baselines3_version")
    )
    return ArchiveFile(name, "sha256:" + digest, data, info, version, archive)


@contextmanager
def _refusals(name: str) -> Iterator[None]:
    """Whatever is wrong with an archive, in words.

    Raises:
        UsageError: In place of what the libraries raise.
    """
    try:
        yield
    except RecursionError as error:
        raise _not_an_archive(name, "its data is nested too deeply") from error
    except KeyError as error:
        raise _not_an_archive(name, str(error.args[0])) from error
    except (ValueError, RuntimeError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise _not_an_archive(name, str(error)) from error


def _not_an_archive(name: str, reason: str) -> UsageError:
    return UsageError(
        f"{name} is not an archive of Stable-Baselines3: {reason[:300]}", remedy="Pass what algorithm.save() wrote."
    )


def _check_names(names: list[str]) -> None:
    if len(names) > _MOST_MEMBERS:
        raise ValueError(f"it has {len(names)} members, at most {_MOST_MEMBERS} are read")
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"it has {count} members of the name {name!r}")
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise ValueError(f"its member {name!r} names a place outside the archive")


def _member(archive: zipfile.ZipFile, name: str, most_bytes: int) -> bytes:
    with archive.open(name) as member:
        # The header's size can lie, so one byte more than allowed is read.
        content = member.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"its member {name!r} unpacks to more than {most_bytes} bytes")
    return content
