"""Make a virtual environment over the one that runs this: it sees what that one has, and what is installed in it alone.

python examples/frameworks/over.py .venv-frameworks
"""

from __future__ import annotations

import sys
import sysconfig
import venv
from pathlib import Path

folder = Path(sys.argv[1]).absolute()
venv.create(folder)
packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
# An editable install is a .pth file itself, which only `addsitedir` reads.
(packages / "below.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
