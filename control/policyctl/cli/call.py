"""One call of a command: which settings it works by, which repository and server, and how it speaks."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import typer

from policyctl.cli.output import Output, printable_lines
from policyctl.errors import PolicyctlError, UsageError

if TYPE_CHECKING:
    from policyctl.config.reading import Reading, Source
    from policyctl.services.control import Control, Say
    from policyctl.services.fleet.moves import Fleet
    from policyctl.services.rollout.remote import Remote
    from policyctl.settings import Settings

BY_STORE: Final = ("promote", "rollback", "abort", "unserve", "status", "history", "serve")
"""Commands that go by the store of a fleet."""
_NO_PINS: Final = ("pin", "unpin")
"""Commands that a store refuses itself: it says what to do instead."""
BY_URL: Final = ("promote", "rollback", "abort", "pin", "unpin", "unserve", "status", "history", "console")
"""Commands that go by a control API."""


@dataclass(frozen=True, slots=True)
class Root:
    """What was given before the command.

    Attributes:
        config: The base file of the settings.
        profile: Which profile.
        api: The control API to use; empty for none, whatever the settings say; None where nothing was given.
        store: The store of a fleet to use; empty and None as for `api`.
        command: The command's name.
    """

    config: Path | None = None
    profile: str | None = None
    api: str | None = None
    store: str | None = None
    command: str = ""


_NOTHING: Final = Root()
_root: ContextVar[Root] = ContextVar("root", default=_NOTHING)
_control: ContextVar[Control | None] = ContextVar("control", default=None)


def begin(root: Root) -> None:
    """A command begins; the root of the command line calls this, every time.

    Raises:
        UsageError: `--api` stands before a command that no control API can carry out, or `--store` before one
            that knows none.
    """
    _root.set(root)
    _control.set(None)
    if root.api and root.command and root.command not in BY_URL:
        raise _by_url_refused(root.api)
    if root.store and root.command and root.command not in (*BY_STORE, *_NO_PINS):
        raise UsageError(
            f"policyctl {root.command} works on a repository of this machine, and not by --store {root.store}",
            remedy=f"With --store go {', '.join(BY_STORE[:-1])} and {BY_STORE[-1]}.",
        )
    if root.store and root.api:
        raise UsageError("--store and --api name two different things to work on", remedy="Give one of them.")


def given_profile() -> str | None:
    """The profile that the command line names."""
    return _root.get().profile


def control_in_use() -> Control | None:
    """The control plane that the command uses; None where it uses none."""
    return _control.get()


@dataclass(frozen=True, slots=True)
class Call(Output):
    """How one call of a command speaks, and what the options say that most commands share.

    Attributes:
        repository: ``--repository``.
        url: ``--url``.
        wait: ``--wait``, in seconds.
    """

    repository: Path | None = None
    url: str | None = None
    wait: float | None = None

    def source(self, **more: Any) -> Source[Settings]:
        """Where settings come from, with what the command line gave; `more` are settings."""
        from policyctl import settings as settings_module  # late: the help of a command needs no setting

        root, server = _root.get(), {"url": self.url, **more.pop("server", {})}
        more["fleet"] = {"store": root.store, **more.pop("fleet", {})}
        typed = {"profile": root.profile or None, "repository": self.repository, "server": server, **more}
        return settings_module.source(config=root.config, lock_wait_s=self.wait, **typed)

    def layers(self, **more: Any) -> Reading[Settings]:
        """Settings, with what the command line gave on top, and where each came from."""
        return self.source(**more).read()

    def settings(self, **more: Any) -> Settings:
        """Settings, with what the command line gave on top, for a command that works on a repository here.

        Raises:
            UsageError: As `_here`.
        """
        return _here(self.layers(**more))

    def control(self, **more: Any) -> Control:
        """The control plane of the repository here; `more` are settings.

        Raises:
            UsageError: As `settings`.
        """
        return _in_use(self.settings(**more), say=self.say, show=self.working)

    def serving(self, **more: Any) -> tuple[Control, Reading[Settings]]:
        """The control plane of a command that serves, with its settings and their warnings said.

        Nobody who reads its words too slowly holds it up.

        Raises:
            UsageError: As `settings`.
        """
        from policyctl.services.logs.server_log import to_stderr

        reading = self.layers(**more)
        settings = _here(reading)
        for warning in reading.warnings:
            self.say(f"WARNING: {warning}.")
        return _in_use(settings, say=lambda text: to_stderr(printable_lines(text))), reading

    def elsewhere(self) -> Remote | Fleet | None:
        """What `--api`, `--store` or a setting names instead of a repository here; None for a repository here.

        Raises:
            UsageError: The address is wrong, or a repository was named as well.
        """
        if (remote := self.remote()) is not None:
            return remote
        settings = Call().layers().require()
        if not (store := settings.fleet.store):
            return None
        self._require_alone("--store", store)
        from policyctl.services.fleet.moves import Fleet

        return Fleet(settings, self.say)

    def remote(self) -> Remote | None:
        """The control API that `--api` or a setting names; None for none.

        Raises:
            UsageError: The address is wrong, or a repository was named as well.
        """
        settings = Call().layers().require()
        if not (target := _api_url(settings)):
            return None
        self._require_alone("--api", target)
        from policyctl.adapters.control_api import ControlApi
        from policyctl.services.rollout.remote import Remote

        api = settings.api
        client = ControlApi(target, token=api.token.get_secret_value(), ca_file=api.ca_file, timeout_s=api.timeout_s)
        return Remote(client, self.say)

    def _require_alone(self, option: str, target: str) -> None:
        for other, given in (("--repository", self.repository), ("--url", self.url)):
            if given is not None:
                raise UsageError(
                    f"{other} and {option} {target} name two different things to work on",
                    remedy=f"Give one of them. To leave out the other: policyctl {option} '' ...",
                )

    def require_writable(self, *paths: Path | None) -> None:
        """Refuse early: minutes of measuring must not end in a folder that does not exist.

        Raises:
            UsageError: One of `paths` cannot be a file.
        """
        for path in paths:
            if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
                raise UsageError(f"{path} cannot be written", remedy="Name a file in a folder that exists.")

    def write(self, path: Path | None, render: Callable[[], str]) -> None:
        """Write what `render` gives to a file that an option names, and say so; nothing where none is named.

        Raises:
            PolicyctlError: The file cannot be written.
        """
        if path is None:
            return
        try:
            path.write_text(render(), encoding="utf-8")
        except OSError as error:
            raise PolicyctlError(f"{path} cannot be written: {error.strerror}") from error
        self.say(f"Wrote {path}.")

    def end_with(self, error: PolicyctlError) -> NoReturn:
        """End after the result was printed: with the error in words, or by its exit code alone for a machine.

        Raises:
            PolicyctlError: `error`.
            Exit: With its exit code, where the one JSON document is printed already.
        """
        if self.as_json:
            raise typer.Exit(error.exit_code)
        raise error


def _here(reading: Reading[Settings]) -> Settings:
    """Settings for a command that works on a repository here.

    Raises:
        UsageError: Something is wrong with them, and all of it is named; or a control API elsewhere was to be used.
    """
    settings = reading.require()
    if elsewhere := _api_url(settings):
        raise _by_url_refused(elsewhere)
    return settings


def _api_url(settings: Settings) -> str:
    root = _root.get()
    if root.api is None:
        return "" if root.store else settings.api.url  # what was typed goes before what is set
    return root.api


def _by_url_refused(url: str) -> UsageError:
    command = _root.get().command
    return UsageError(
        f"policyctl {command} works on a repository of this machine, and cannot go by --api {url}",
        remedy=f"By URL go {', '.join(BY_URL[:-1])} and {BY_URL[-1]}. For a repository here:"
        f" policyctl --api '' {command} ..., or unset POLICYCTL_API__URL.",
    )


def _in_use(settings: Settings, *, say: Say, **more: Any) -> Control:
    from dataclasses import replace

    from policyctl.services.control import Control  # late: Triton's client takes its time
    from policyctl.services.log import log_of

    control = Control.of(settings, say)
    control = replace(control, log=log_of(settings, control.repository.control), **more)
    _control.set(control)
    return control
