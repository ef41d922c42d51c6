"""Print what the image of the control plane installs besides policyctl itself, one requirement a line.

It is what pyproject.toml requires, with the extras of the image.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

EXTRAS = ("sign", "api", "store")


def main() -> None:
    """Write the requirements to stdout."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(each for extra in EXTRAS for each in project["optional-dependencies"][extra])]
    sys.stdout.writelines(f"{each}\n" for each in wanted)


if __name__ == "__main__":
    main()
