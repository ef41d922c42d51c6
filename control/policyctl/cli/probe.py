"""The command that says by its exit code whether what is served answers, and rightly."""

from __future__ import annotations

from typing import Annotated

import typer

from policyctl.cli import completion, options
from policyctl.cli.call import Call
from policyctl.domain.verdict import Verdict
from policyctl.errors import GateError, ServerError, UsageError


@options.command("repository", "url")
def probe(
    call: Call,
    model: options.OptionalModel = None,
    alias: Annotated[
        str | None,
        typer.Option("--alias", "-a", help="Only this alias, or pinned number.", autocompletion=completion.aliases),
    ] = None,
    required: Annotated[
        bool, typer.Option("--require", help="Exit with 6 also where no alias names anything yet.")
    ] = False,
) -> None:
    """Ask each alias for a golden action; exit with 0 only if every one gives it.

    For health checks and scripts. Exits with 6 where no server or an alias does
    not answer, with 4 where one answers otherwise than its release was published.

    Examples:

        policyctl probe

        policyctl probe walker --alias production --json
    """
    from policyctl.services.supervise.probe import probe as service

    found = service(call.control(), model=model, alias=alias)
    if not found:
        if alias is not None:
            raise UsageError(f"no model has an alias {alias!r}", remedy="See: policyctl status")
        if required:
            raise ServerError(
                "no alias names anything yet", remedy="Promote a release: policyctl promote MODEL RELEASE"
            )
    rows = [(p.model, p.alias, p.release, p.verdict.value, p.duration_ms, p.detail) for p in found]
    if call.as_json or not call.quiet:
        call.table(
            {"aliases": found, "healthy": all(p.verdict is Verdict.PASSED for p in found)},
            "Golden actions",
            ("model", "alias", "release", "verdict", "took ms", "detail"),
            rows,
        )
    # A wrong answer is worse news than none.
    for verdict, error in ((Verdict.FAILED, GateError), (Verdict.ERROR, ServerError)):
        bad = [p for p in found if p.verdict is verdict]
        if bad:
            names = ", ".join(p.served for p in bad)
            what = "answers wrongly" if error is GateError else "does not answer"
            call.end_with(error(f"{names} {what}: {bad[0].detail}", remedy="See: policyctl status, policyctl verify"))
