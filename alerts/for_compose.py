"""Write containers/alertmanager.yml, which docker-compose.yml mounts; `--check` says whether that was done.

.venv/bin/python alerts/for_compose.py

Alertmanager reads one file and includes no other. So routes and inhibitions are
written once, in the alertmanager.yml of this folder, and only what differs in a
container stands here. There the receiver's address is a secret, which the
Alertmanager of Debian cannot read from a file.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).resolve().parent / "alertmanager.yml"
TARGET: Final = SOURCE.parents[1] / "containers" / "alertmanager.yml"
_HEAD: Final = """\
# Alertmanager in docker-compose.yml. Written by alerts/for_compose.py from alerts/alertmanager.yml: change that one.
# The receiver's address is a secret.
"""
_RECEIVERS: Final = """\
receivers:
  - name: webhook
    webhook_configs:
      - url_file: /run/secrets/webhook_url
        send_resolved: true

"""


def text() -> str:
    """What the file has to be.

    Raises:
        ValueError: alerts/alertmanager.yml is laid out otherwise than this expects.
    """
    found = re.fullmatch(
        r"(?:#.*\n)*(route:\n.*?\n)receivers:\n.*?\n(inhibit_rules:\n.*)", SOURCE.read_text(), re.DOTALL
    )
    if found is None:
        raise ValueError(f"{SOURCE} is not a comment, route, receivers and inhibit_rules, in this order")
    return _HEAD + found[1] + _RECEIVERS + found[2]


def keep(target: Path, content: str, *, source: str, what: str | None) -> int:
    """Write a file that is made of another one, or with ``--check`` only look; the exit code.

    Args:
        target: The file.
        content: What it has to be.
        source: What it is made of, for messages.
        what: The script's docstring.
    """
    parser = argparse.ArgumentParser(description=(what or "").split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where it is not as made")
    check = parser.parse_args().check
    if target.is_file() and target.read_text() == content:
        return 0
    if not check:
        target.write_text(content)
    print(f"{target.name} {f'is not what {source} makes' if check else 'written'}")
    return 1 if check else 0


if __name__ == "__main__":
    sys.exit(keep(TARGET, text(), source="alerts/alertmanager.yml", what=__doc__))
