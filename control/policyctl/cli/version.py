"""The command that says which policyctl this is: version."""

from __future__ import annotations

from policyctl import __version__
from policyctl.cli import options
from policyctl.cli.call import Call


@options.command()
def version(call: Call) -> None:
    """Print the version, as --version does.

    Example:

        policyctl version --json
    """
    call.data({"version": __version__}, words=f"policyctl {__version__}")
