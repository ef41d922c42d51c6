"""Arrays by name in one file: an NPZ without pickles, so reading one runs no code.

Law: the same arrays give the same bytes, and ``unpack(pack(arrays))`` is `arrays`.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policyctl.errors import UsageError


def pack(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The file's content."""
    buffer = io.BytesIO()
    # np.savez promises neither an order nor a time stamp: spell both out.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(arrays):
            content = io.BytesIO()
            np.save(content, np.asarray(arrays[name], order="C"), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(name + ".npy"), content.getvalue())
    return buffer.getvalue()


def unpack(content: bytes, *, what: str, most_bytes: int) -> dict[str, NDArray[Any]]:
    """Read what `pack` wrote.

    Args:
        content: The file.
        what: What it should be, for messages.
        most_bytes: The most that all arrays may hold together, unpacked.

    Raises:
        UsageError: Not such a file.
    """
    try:
        # Anything else than a ZIP archive numpy would take for a single array or a pickle.
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            size = sum(entry.file_size for entry in packed.infolist())
            if size > most_bytes:
                raise ValueError(f"its arrays take {size} bytes, expected at most {most_bytes}")
            archive = np.load(io.BytesIO(content), allow_pickle=False)
        arrays = {name: archive[name] for name in archive.files}
    except Exception as error:
        raise UsageError(f"{what}: not a readable NPZ file ({type(error).__name__}: {error})") from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise UsageError(f"{what}: {name} is not an array")
    return arrays
