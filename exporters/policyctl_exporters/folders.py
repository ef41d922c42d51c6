"""An output folder that is there whole, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from policyctl.domain.artifacts import CONTRACT_FILE
from policyctl.errors import PolicyctlError, UsageError
from policyctl.plain_files import denied


def check_output(output: Path, *, force: bool) -> None:
    """Refuse an output that is in use.

    Args:
        force: An earlier export may be replaced; nothing else ever is.
    """
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise UsageError(f"{output} is not a folder", remedy="Give a new folder for the export.")
    if not output.exists() or not any(output.iterdir()):
        return
    if not force:
        raise UsageError(
            f"{output} is not empty", remedy="Give another folder, or --force to replace the export in it."
        )
    if not (output / CONTRACT_FILE).is_file():
        raise UsageError(
            f"{output} holds something that is not an export (no {CONTRACT_FILE}), and is not replaced",
            remedy="Give another folder.",
        )


@contextmanager
def whole_folder(output: Path, *, force: bool) -> Iterator[Path]:
    """A temporary sibling that becomes `output` when the block ends well, and vanishes otherwise."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".tmp", dir=output.parent.absolute()))
    except OSError as error:
        raise _unwritable(output, error) from error
    try:
        yield folder
        _require_room(folder)
        # mkdtemp makes it private; an export is as readable as any other new folder.
        mask = os.umask(0)
        os.umask(mask)
        folder.chmod(0o777 & ~mask)
        check_output(output, force=force)
        if output.exists() and any(output.iterdir()):
            earlier = folder.with_suffix(".old")
            output.rename(earlier)
            try:
                folder.rename(output)
            except OSError:
                earlier.rename(output)
                raise
            shutil.rmtree(earlier)
        else:
            folder.rename(output)
    except OSError as error:
        raise _unwritable(output, error) from error
    except PolicyctlError as error:
        # A runtime that cannot write its file says whatever it likes; a full disk is what it means.
        _require_room(folder, cause=error)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_ROOM_BYTES: Final = 4096


def _require_room(folder: Path, *, cause: Exception | None = None) -> None:
    """Refuse a disk that is full now: libraries that write files do not all tell."""
    probe = folder / ".room"
    try:
        with probe.open("wb") as writer:
            writer.write(bytes(_ROOM_BYTES))
            writer.flush()
            os.fsync(writer.fileno())
        probe.unlink()
    except OSError as error:
        raise _unwritable(folder.parent, error) from cause or error


def _unwritable(path: Path, error: OSError) -> UsageError:
    if isinstance(error, PermissionError):
        return denied(error, path)
    return UsageError(
        f"{path}: cannot be written ({error.strerror or error})",
        remedy="Check free space (df), permissions, and whether the file system is read-only. Nothing was exported.",
    )
