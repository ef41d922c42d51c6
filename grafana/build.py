"""Write the dashboards of `boards/*.yml` as JSON, as Grafana reads them; `--check` says whether that was done.

.venv/bin/python grafana/build.py
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from grafana_foundation_sdk.cog.encoder import JSONEncoder  # noqa: E402
from ruamel.yaml import YAML  # noqa: E402

from panels import board  # noqa: E402


def documents() -> dict[str, str]:
    """The text of every file, by its name without suffix."""
    made = {}
    for path in sorted((HERE / "boards").glob("*.yml")):
        built = board(YAML(typ="safe").load(path)).build()
        for number, panel in enumerate(built.panels or (), start=1):
            panel.id_val = number
        made[path.stem] = json.dumps(built, cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
    return made


def main() -> int:
    """Write them, or check them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a file is not as made")
    check = parser.parse_args().check
    stale = [name for name, text in documents().items() if _read(name) != text]
    for name in stale:
        print(f"{name}.json {'is not what the code makes' if check else 'written'}")
        if not check:
            _path(name).write_text(documents()[name])
    return 1 if check and stale else 0


def _path(name: str) -> Path:
    return HERE / "dashboards" / f"{name}.json"


def _read(name: str) -> str:
    return _path(name).read_text() if _path(name).exists() else ""


if __name__ == "__main__":
    sys.exit(main())
