"""Read settings whole: files, environment and command line, validated together, with everything that is wrong.

Reading is repeatable: a `Source` knows what was typed and reads the rest again,
so a running server takes a changed file over by the very way it started.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from policyctl.config import environment, rules, secrets
from policyctl.config.environment import PROFILE
from policyctl.config.files import STEM, SUFFIXES, find_base, find_profile, profiles_beside, read_file
from policyctl.config.keys import groups, key_at, nearest, shown
from policyctl.config.layers import Layer, LayerKind, highest, merged
from policyctl.documents import document
from policyctl.documents.document import Path as Where
from policyctl.documents.document import Problem
from policyctl.documents.expected import expectation
from policyctl.errors import UsageError

Model = TypeVar("Model", bound=BaseModel)
_PROFILE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")
_DEFAULTS: Final = Layer(LayerKind.DEFAULT, {})


@dataclass(frozen=True, slots=True)
class Reading(Generic[Model]):
    """Settings as they were read.

    Attributes:
        settings: The whole tree; None where something is wrong.
        built: The tree that the layers make together, also where nothing but a rule of the profile refuses it.
        profile: Which one holds; empty for none.
        layers: Highest first, also those that are wrong.
        data: What the layers set together, secrets as their text.
        watched: Every file whose coming, going or change may change the settings.
        source: What was read.
    """

    settings: Model | None
    built: Model | None
    profile: str
    layers: tuple[Layer, ...]
    data: Mapping[str, Any]
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]
    watched: tuple[Path, ...]
    source: Source[Model]

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that was read, the base file first."""
        return tuple(Path(layer.file) for layer in reversed(self.layers) if layer.file)

    def require(self) -> Model:
        """The settings.

        Raises:
            UsageError: Something is wrong; names all of it.
        """
        if self.settings is None or self.problems:
            raise refusal(self.problems)
        return self.settings


@dataclass(frozen=True, slots=True)
class Source(Generic[Model]):
    """Where settings come from.

    Attributes:
        typed: What the command line sets, group in group.
        config: The base file that it names; None where it names none.
        environ: Whether the environment has a say.
        folder: Where the base file is looked for if nothing names it.
    """

    model: type[Model]
    typed: Mapping[str, Any] = field(default_factory=dict)
    config: Path | None = None
    environ: bool = True
    folder: Path = Path()

    def base(self) -> Path | None:
        """The base file, if there is one.

        Raises:
            UsageError: The named one does not exist, or two could be meant.
        """
        named = self.config
        if named is None and self.environ and (given := os.environ.get(environment.config_variable(self.model))):
            named = Path(given)
        return find_base(named, self.folder)

    def read(self) -> Reading[Model]:
        """Read all of it; the answer lists what is wrong."""
        above = [Layer(LayerKind.COMMAND_LINE, self.typed)]
        if self.environ:
            above.append(environment.layer(self.model))
        problems: list[Problem] = []
        below: list[Layer] = []
        base: Path | None = None
        try:
            base = self.base()
            if base is not None:
                below.append(read_file(self.model, base, LayerKind.BASE))
        except UsageError as error:
            problems.append(_of_file(base, error))
        profile = _profile([*above, *below])
        found = self._of_profile(profile, base, [*above, *below]) if isinstance(profile, str) else profile
        if isinstance(found, Problem):
            problems.append(found)
        elif found is not None:
            above.append(found)
        return self._whole(profile if isinstance(profile, str) else "", [*above, *below], problems)

    def _of_profile(self, profile: str, base: Path | None, layers: list[Layer]) -> Layer | Problem | None:
        """The layer of the profile's file, if there is one; a problem where neither it nor the profile exists."""
        path: Path | None = None
        try:
            path = find_profile(base, self.folder, profile) if profile else None
            if path is not None:
                return read_file(self.model, path, LayerKind.PROFILE)
        except UsageError as error:
            return _of_file(path, error)
        if not profile or profile in rules.PROFILES:
            return None
        known = sorted({*rules.PROFILES, *profiles_beside(base, self.folder)})
        near = get_close_matches(profile, known, n=1)
        stem = STEM if base is None else base.stem
        expected = f"{f'{near[0]}? ' if near else ''}one of {', '.join(known)}, or a file {stem}.{profile}.yaml"
        layer = next(each for each in layers if each.data.get(PROFILE) == profile)
        return layer.problem((PROFILE,), profile, expected)

    def _watched(self, profile: str, files: list[Path]) -> Iterator[Path]:
        """Every file that would be read if it existed."""
        yield from files
        base = files[0] if files else self.folder / STEM
        stem = STEM if self.config is None and not files else base.stem
        for suffix in SUFFIXES:
            yield self.folder / f"{STEM}{suffix}"
            yield base.parent / f"{stem}.{profile}{suffix}"

    def _whole(self, profile: str, layers: list[Layer], problems: list[Problem]) -> Reading[Model]:
        model, settings = self.model, None
        for layer in layers:
            problems += [*layer.problems, *_wrong_by_itself(model, layer)]
            if layer.kind is LayerKind.PROFILE and (named := layer.data.get(PROFILE, profile)) != profile:
                problems.append(layer.problem((PROFILE,), repr(named), f"{profile}, whose file this is; or nothing"))
        opened = secrets.resolved(model, merged(layers), layers)
        problems += opened.problems
        broken = bool(problems)
        try:
            settings = model(**opened.data)
        except ValidationError:
            # Each layer was validated by itself, so whatever is wrong here is among the problems already.
            if not problems:
                raise
        else:
            problems += check_rules(profile, settings, layers)
        if profile in rules.NO_PLAIN_SECRETS:
            problems += [
                layer.problem(key.path, "a secret", rules.PLAIN_SECRET)
                for layer in layers
                for key in secrets.plain(model, layer)
            ]
        files = [Path(layer.file) for layer in reversed(layers) if layer.file]
        return Reading(
            settings=None if problems else settings,
            built=None if broken else settings,
            profile=profile,
            layers=tuple(layers),
            data=opened.data,
            problems=tuple(_unique(problems)),
            warnings=(*(words for layer in layers for words in secrets.exposed(model, layer)), *opened.warnings),
            watched=(*self._watched(profile, files), *opened.files),
            source=self,
        )


def _profile(layers: list[Layer]) -> str | Problem:
    """The profile that the layers name, empty for none; a problem where that may be no profile's name."""
    for layer in layers:
        name = layer.data.get(PROFILE)
        if name in {None, ""}:
            continue
        if isinstance(name, str) and _PROFILE_NAME.fullmatch(name):
            return name
        expected = "a profile's name: small letters, digits, - and _"
        return layer.problem((PROFILE,), repr(name), expected)
    return ""


def refusal(problems: Iterable[Problem]) -> UsageError:
    """The error that names every problem of the settings."""
    remedy = "Correct the option, the POLICYCTL_... variable or the file. See: policyctl config validate"
    return document.refusal(problems, "settings", remedy=remedy)


def check_rules(profile: str, settings: BaseModel, layers: Iterable[Layer]) -> tuple[Problem, ...]:
    """Everything in `settings` that a profile's rules refuse."""
    known = tuple(layers)
    return tuple(
        (highest(known, each.key.path) or _DEFAULTS).problem(
            each.key.path,
            str(shown(type(settings), each.key.path, each.value)) or "nothing",
            f"{each.expected} (profile {profile})",
        )
        for each in rules.broken(profile, settings)
    )


def _of_file(path: Path | None, error: UsageError) -> Problem:
    """A file that cannot be read, with the line where that is known."""
    sentence = error.problem.removeprefix("settings: ")
    if path is None:
        stated, _, expected = sentence.partition(", expected ")
        return Problem(0, "", stated, expected or "a .yaml or .toml file that can be read")
    cause = error.__cause__
    mark, line = getattr(cause, "problem_mark", None), re.search(r"at line (\d+)", sentence)
    number = mark.line + 1 if mark is not None else int(line[1]) if line else 0
    why = getattr(cause, "problem", None) or sentence.removeprefix(f"{path} ")
    kind = "TOML" if path.suffix == ".toml" else "YAML"
    return Problem(number, "", str(why), f"{kind} in UTF-8", str(path))


def _wrong_by_itself(model: type[BaseModel], layer: Layer) -> Iterator[Problem]:
    """What is wrong in one layer, whatever lies over it."""
    try:
        model(**secrets.stubbed(model, layer.data))
    except ValidationError as error:
        yield from (_detail(model, layer, detail) for detail in error.errors(include_url=False))


def _detail(model: type[BaseModel], layer: Layer, detail: ErrorDetails) -> Problem:
    # Pydantic adds a part for the keys of a mapping.
    path: Where = tuple(part for part in detail["loc"] if part != "[key]")
    if detail["type"] == "extra_forbidden":
        return layer.problem(path, "unknown", nearest(model, path))
    key = key_at(model, path)
    secret = key is not None and key.secret
    stated = "a value that is not shown" if secret else document.shown(shown(model, path, detail["input"]))
    if path in groups(model):
        return layer.problem(path, stated, f"a mapping: {', '.join(groups(model)[path].model_fields)}")
    return layer.problem(path, stated, expectation(detail))


def _unique(problems: list[Problem]) -> list[Problem]:
    """In the order of the files and their lines, each place and setting once."""
    first: dict[tuple[str, int, str, str], Problem] = {}
    for each in problems:
        first.setdefault((each.file, each.line, each.path, each.source), each)
    order = list(dict.fromkeys(each.file for each in first.values()))
    return sorted(first.values(), key=lambda p: (order.index(p.file), p.line, p.path))
