"""Read settings whole: files, environment and command line, validated together, with everything that is wrong.

Reading is repeatable: a `Source` knows what was typed and reads the rest anew,
so a running server takes a changed file over by the very way it started.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings

from policyctl.config import environment, rules, secrets
from policyctl.config.environment import PROFILE
from policyctl.config.files import (
    STEM,
    SUFFIXES,
    SettingsFile,
    find_base,
    find_profile,
    profiles_beside,
    read_file,
)
from policyctl.config.keys import groups, key_at, nearest, shown
from policyctl.config.layers import ABSENT, Layer, LayerKind, at, merged
from policyctl.config.problems import SettingProblem, refusal
from policyctl.documents.document import Path as Where
from policyctl.documents.document import path_words
from policyctl.documents.expected import expectation
from policyctl.errors import UsageError

Model = TypeVar("Model", bound=BaseSettings)
_PROFILE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Reading(Generic[Model]):
    """Settings as they were read.

    Attributes:
        settings: The whole tree; None where something is wrong.
        profile: Which one holds; empty for none.
        layers: Highest first, also those that are wrong.
        data: What the layers set together, secrets as their text.
        files: Every file that was read.
        problems: Everything that is wrong.
        warnings: What is not wrong and not good either.
        watched: Every file whose coming, going or change may change the settings.
        source: What was read.
    """

    settings: Model | None
    profile: str
    layers: tuple[Layer, ...]
    data: Mapping[str, Any]
    files: tuple[SettingsFile, ...]
    problems: tuple[SettingProblem, ...]
    warnings: tuple[str, ...]
    watched: tuple[Path, ...]
    source: Source[Model]

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
        model: The tree.
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
        """The base file; None where there is none.

        Raises:
            UsageError: The named one is not there, or two could be meant.
        """
        named = self.config
        if named is None and self.environ and (given := os.environ.get(environment.config_variable(self.model))):
            named = Path(given)
        return find_base(named, self.folder)

    def read(self) -> Reading[Model]:
        """Read all of it; what is wrong is told, not raised."""
        problems: list[SettingProblem] = []
        layers = [Layer(LayerKind.COMMAND_LINE, self.typed)]
        if self.environ:
            found, wrong = environment.layer(self.model)
            layers.append(found)
            problems += wrong
        files: list[SettingsFile] = []
        base: Path | None = None
        try:
            base = self.base()
            if base is not None:
                files.append(read_file(self.model, base))
        except UsageError as error:
            problems.append(_file_problem(base, error))
        below = [_layer(LayerKind.BASE, file) for file in files]
        profile, more = self._profile([*layers, *below], base)
        problems += more
        path: Path | None = None
        if profile:
            try:
                path = find_profile(base, self.folder, profile)
                if path is not None:
                    files.append(read_file(self.model, path))
                    layers.append(_layer(LayerKind.PROFILE, files[-1]))
                    problems += _other_profile(layers[-1], profile)
                elif profile not in rules.PROFILES:
                    problems.append(self._unknown_profile([*layers, *below], base, profile))
            except UsageError as error:
                problems.append(_file_problem(path, error))
        return self._whole(profile, [*layers, *below], files, problems)

    def _profile(self, layers: list[Layer], base: Path | None) -> tuple[str, list[SettingProblem]]:
        """Which profile the layers name, if that may be one's name."""
        for layer in layers:
            found = layer.data.get(PROFILE)
            if found in {None, ""}:
                continue  # of what is no name, only a file can hold the empty one
            if isinstance(found, str) and _PROFILE_NAME.fullmatch(found):
                return found, []
            expected = "a profile's name: small letters, digits, - and _"
            return "", [_at(layer, (PROFILE,), repr(found), expected)]
        return "", []

    def _unknown_profile(self, layers: list[Layer], base: Path | None, profile: str) -> SettingProblem:
        layer = next(each for each in layers if each.data.get(PROFILE) == profile)
        known = sorted({*rules.PROFILES, *profiles_beside(base, self.folder)})
        near = get_close_matches(profile, known, n=1)
        stem = "policyctl" if base is None else base.stem
        expected = f"{f'{near[0]}? ' if near else ''}one of {', '.join(known)}, or a file {stem}.{profile}.yaml"
        return _at(layer, (PROFILE,), profile, expected)

    def _candidates(self, profile: str, files: list[SettingsFile]) -> Iterator[Path]:
        """Every file that would be read if it were there."""
        yield from (file.path for file in files)
        base = next((file.path for file in files), self.folder / STEM)
        stem = STEM if self.config is None and not files else base.stem
        for suffix in SUFFIXES:
            yield self.folder / f"{STEM}{suffix}"
            yield base.parent / f"{stem}.{profile}{suffix}"

    def _whole(
        self, profile: str, layers: list[Layer], files: list[SettingsFile], problems: list[SettingProblem]
    ) -> Reading[Model]:
        model = self.model
        for file in files:
            problems += file.problems
        for layer in layers:
            problems += _wrong_by_itself(model, layer)
        opened = secrets.resolved(model, merged(layers), layers)
        problems += opened.problems
        settings: Model | None = None
        try:
            settings = model(**opened.data)
        except ValidationError as error:
            told = {p.key for p in problems}
            details = error.errors(include_url=False)
            problems += [p for d in details if (p := _of_layers(model, layers, d)).key not in told]
        else:
            problems += _against_rules(profile, settings, layers)
        by_path = {str(file.path): file for file in files}
        warnings = [w for la in layers if la.file for w in secrets.exposed(model, la, by_path[la.file])]
        if profile in rules.NO_PLAIN_SECRETS:
            problems += [
                _at(layer, key.path, "a secret", rules.PLAIN_SECRET)
                for layer in layers
                for key in secrets.plain(model, layer)
            ]
        return Reading(
            settings=None if problems else settings,
            profile=profile,
            layers=tuple(layers),
            data=opened.data,
            files=tuple(files),
            problems=tuple(_unique(problems)),
            warnings=(*warnings, *opened.warnings),
            watched=(*self._candidates(profile, files), *opened.files),
            source=self,
        )


def check_rules(profile: str, settings: BaseModel, layers: tuple[Layer, ...]) -> tuple[SettingProblem, ...]:
    """Everything in `settings` that a profile's rules refuse."""
    return tuple(_against_rules(profile, settings, list(layers)))


def _layer(kind: LayerKind, file: SettingsFile) -> Layer:
    return Layer(kind, file.data, file=str(file.path), lines=file.lines)


def _at(layer: Layer, path: Where, found: str, expected: str) -> SettingProblem:
    source = "" if layer.file else layer.place(path)
    return SettingProblem(layer.file, layer.line(path), path_words(path), found, expected, source=source)


def _file_problem(path: Path | None, error: UsageError) -> SettingProblem:
    words = error.problem.removeprefix("settings: ")
    if path is None:
        return SettingProblem("", 0, "", words, "one settings file that can be read")
    cause = error.__cause__
    mark = getattr(cause, "problem_mark", None)
    line = re.search(r"at line (\d+)", words)
    number = mark.line + 1 if mark is not None else int(line[1]) if line else 0
    why = getattr(cause, "problem", None) or words.removeprefix(f"{path} ")
    kind = "TOML" if path.suffix == ".toml" else "YAML"
    return SettingProblem(str(path), number, "", str(why), f"{kind} in UTF-8")


def _other_profile(layer: Layer, profile: str) -> list[SettingProblem]:
    named = layer.data.get(PROFILE, profile)
    if named == profile:
        return []
    return [_at(layer, (PROFILE,), repr(named), f"{profile}, whose file this is; or nothing")]


def _wrong_by_itself(model: type[BaseModel], layer: Layer) -> Iterator[SettingProblem]:
    """What is wrong in one layer, whatever lies over it.

    What concerns a group as a whole is left to the settings as a whole.
    """
    try:
        model(**secrets.stubbed(model, layer.data))
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            path = _path(detail)
            if not path or (path in groups(model) and detail["type"] in {"value_error", "assertion_error"}):
                continue
            yield _detail(model, layer, detail)


def _of_layers(model: type[BaseModel], layers: list[Layer], detail: ErrorDetails) -> SettingProblem:
    path = _path(detail)
    for layer in layers:
        if at(layer.data, path) is not ABSENT:
            return _detail(model, layer, detail)
    return SettingProblem("", 0, path_words(path), "", expectation(detail), source="default")


def _path(detail: ErrorDetails) -> Where:
    """Where it is; without what pydantic adds for the keys of a mapping."""
    return tuple(part for part in detail["loc"] if part != "[key]")


def _detail(model: type[BaseModel], layer: Layer, detail: ErrorDetails) -> SettingProblem:
    path = _path(detail)
    if detail["type"] == "extra_forbidden":
        return _at(layer, path, "unknown", nearest(model, path))
    value = shown(model, path, detail["input"])
    key = key_at(model, path)
    text = "a value that is not shown" if key is not None and key.secret else _short(value)
    if path in groups(model):
        return _at(layer, path, text, f"a mapping: {', '.join(groups(model)[path].model_fields)}")
    return _at(layer, path, text, expectation(detail))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _against_rules(profile: str, settings: BaseModel, layers: list[Layer]) -> Iterator[SettingProblem]:
    for each in rules.broken(profile, settings):
        path = each.key.path
        value = str(shown(type(settings), path, each.value)) or "nothing"
        expected = f"{each.expected} (profile {profile})"
        layer = next((la for la in layers if at(la.data, path) is not ABSENT), None)
        if layer is None:
            yield SettingProblem("", 0, each.key.name, value, expected, source="default")
        else:
            yield _at(layer, path, value, expected)


def _unique(problems: list[SettingProblem]) -> list[SettingProblem]:
    """In the order of the files and their lines, each place and setting once."""
    seen: dict[tuple[str, int, str, str], SettingProblem] = {}
    for each in problems:
        seen.setdefault((each.file, each.line, each.key, each.source), each)
    order = list(dict.fromkeys(each.file for each in seen.values()))
    return sorted(seen.values(), key=lambda p: (order.index(p.file), p.line, p.key))
