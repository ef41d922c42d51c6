"""What a shell offers for models, releases, aliases, tokens and keys: those of the repository that the line names.

Nothing here refuses: of a repository that cannot be read, nothing is offered.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import typer

from policyctl.errors import PolicyctlError

if TYPE_CHECKING:
    from policyctl.domain.state import State
    from policyctl.settings import Settings

T = TypeVar("T")


def models(context: typer.Context, incomplete: str) -> list[str]:
    """Names of published models."""
    return _begun({release.model for release in _state(context).releases.values()}, incomplete)


def aliases(context: typer.Context, incomplete: str) -> list[str]:
    """Aliases and pins of the model that stands before."""
    model = _model(context)
    return _begun({alias for owner, alias in _state(context).aliases if model in {None, owner}}, incomplete)


def releases(context: typer.Context, incomplete: str) -> list[str]:
    """Releases of the model that stands before, and what selects one: its aliases, latest."""
    state, model = _state(context), _model(context)
    numbers = {release.release for release in state.releases.values() if release.model == model}
    named = {alias for owner, alias in state.aliases if owner == model}
    return _begun(numbers | named | ({"latest"} if numbers else set()), incomplete)


def results(context: typer.Context, incomplete: str) -> list[str]:
    """MODEL@RELEASE for each published release."""
    return _begun({f"{release.model}@{release.release}" for release in _state(context).releases.values()}, incomplete)


def tokens(context: typer.Context, incomplete: str) -> list[str]:
    """Names of the control API's tokens."""

    def names(settings: Settings) -> set[str]:
        from policyctl.adapters.repository import Repository
        from policyctl.adapters.token_store import TokenFile

        return {token.name for token in TokenFile(Repository(settings.repository)).read()}

    return _begun(_read(context, names, set()), incomplete)


def trusted(context: typer.Context, incomplete: str) -> list[str]:
    """Names in the trust store."""

    def names(settings: Settings) -> set[str]:
        from policyctl.adapters.trust_store import read
        from policyctl.services.trust.signatures import trust_path

        return {entry.name for entry in read(context.params.get("store") or trust_path(settings))}

    return _begun(_read(context, names, set()), incomplete)


def _begun(names: set[str], incomplete: str) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))


def _model(context: typer.Context) -> str | None:
    """The model that stands before; an option that still lacks its value leaves it among the rest."""
    found: str | None = context.params.get("model") or next(iter(context.args), None)
    return found


def _state(context: typer.Context) -> State:
    from policyctl.adapters.repository import Repository
    from policyctl.domain.state import State

    return _read(context, lambda settings: Repository(settings.repository).journal.state(), State())


def _read(context: typer.Context, read: Callable[[Settings], T], nothing: T) -> T:
    """What `read` gives for the settings that the command line means; `nothing` where it refuses."""
    from policyctl.cli import call

    given = context.find_root().params
    with suppress(PolicyctlError, OSError):
        call.begin(call.Root(given.get("config_file"), given.get("profile"), given.get("api")))
        return read(call.Call(repository=context.params.get("repository")).settings())
    return nothing
