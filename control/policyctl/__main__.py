"""The command `policyctl`, from its first import on.

Everything else takes part of a second to import. A person who presses Ctrl-C in
that time wants no traceback.
"""

import sys

from policyctl import warm

_INTERRUPTED = 130


def main() -> None:
    """Run the command line."""
    try:
        if (code := warm.run(sys.argv[1:])) is not None:
            sys.exit(code)
        from policyctl.cli.main import main as run
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    run()


if __name__ == "__main__":
    main()
