"""Write the PrometheusRule of kubernetes/, with the rules of this folder; `--check` says whether that was done.

.venv/bin/python alerts/for_kubernetes.py

The Prometheus Operator reads no files of rules but objects of the cluster. So the
groups stand below `spec` of one object, line by line as they are written here.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from for_compose import keep

RULES: Final = Path(__file__).resolve().parent / "rules"
TARGET: Final = RULES.parents[1] / "kubernetes" / "components" / "monitoring" / "prometheusrule.yaml"
_HEAD: Final = """\
# Written by alerts/for_kubernetes.py from alerts/rules: change those.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: policyctl
  labels:
    app.kubernetes.io/name: policyctl
    app.kubernetes.io/component: node
    app.kubernetes.io/part-of: policyctl
spec:
  groups:
"""


def text() -> str:
    """What the file has to be.

    Raises:
        ValueError: A file of rules is more than comments and `groups`.
    """
    made = [_HEAD]
    for path in sorted(RULES.glob("*.yml")):
        comments, found, groups = path.read_text().partition("groups:\n")
        if not found or any(line and not line.startswith("#") for line in comments.splitlines()):
            raise ValueError(f"{path} is not comments and then groups")
        made += [f"  {line}" if line.strip() else line for line in groups.splitlines(keepends=True)]
    return "".join(made)


if __name__ == "__main__":
    sys.exit(keep(TARGET, text(), source="alerts/rules", what=__doc__))
