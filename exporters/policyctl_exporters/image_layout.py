"""Which way round an environment gives its images, where Stable-Baselines3 turned them.

A policy of Stable-Baselines3 observes images with channels first. Around an
environment that gives them last, training puts a ``VecTransposeImage``, of
which an archive says nothing; ``predict()`` takes both. The contract says what
the environment gives, and the graph turns it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import numpy as np

from policyctl.errors import UsageError
from policyctl_exporters.normalizer import FLAT


class Images(StrEnum):
    """Where an image has its channels."""

    CHANNELS_FIRST = "channels-first"
    CHANNELS_LAST = "channels-last"


def parse_images(text: str | None) -> Images | None:
    """What a caller says about images.

    Raises:
        UsageError: It is neither of the two.
    """
    try:
        return None if text is None else Images(text)
    except ValueError as error:
        raise UsageError(f"images is {text!r}, expected {' or '.join(Images)}") from error


def given_space(own: Any, *, environment: Any = None, images: Images | None = None) -> tuple[Any, tuple[str, ...]]:
    """The space of what the environment gives to a policy, and what a person should know about it.

    Args:
        own: The policy's space.
        environment: That of its environment, where known.
        images: What the caller says, which counts more.

    Raises:
        UsageError: Something is said about images, and the policy observes none that are turned.
    """
    turned = {key: channels_last(space) for key, space in _parts(own).items() if _is_turned(space)}
    if not turned:
        if images is not None:
            raise UsageError(f"images is {images}, and the policy observes no image with channels first")
        return own if environment is None else environment, ()
    if images is None and environment is not None:
        given = _parts(environment)
        last = [key for key in turned if given[key].shape == turned[key].shape != _parts(own)[key].shape]
        return environment, tuple(_note(key, turned[key], "as its environment gives them") for key in last)
    if images is Images.CHANNELS_FIRST:
        return own, ()
    why = "as environments give them" if images is None else "as you said"
    notes = tuple(_note(key, space, why, assumed=images is None) for key, space in turned.items())
    return _with_parts(own, turned), notes


def _note(key: str, space: Any, why: str, *, assumed: bool = False) -> str:
    what = "images are" if key == FLAT else f"images of {key} are"
    first = (space.shape[2], *space.shape[:2])
    more = f"; where yours gives {first}, say so: --images channels-first (images='channels-first')" if assumed else ""
    return f"{what} taken with channels last, {space.shape}, {why}, and turned in the graph{more}"


def _parts(space: Any) -> Mapping[str, Any]:
    inner: Mapping[str, Any] = getattr(space, "spaces", None) or {FLAT: space}
    return inner


def _with_parts(space: Any, changed: Mapping[str, Any]) -> Any:
    from gymnasium import spaces

    return spaces.Dict({**space.spaces, **changed}) if isinstance(space, spaces.Dict) else changed[FLAT]


def _is_turned(space: Any) -> bool:
    """Whether ``predict()`` takes this image with channels last as well."""
    from stable_baselines3.common.preprocessing import is_image_space

    return bool(is_image_space(space)) and int(np.argmin(space.shape)) == 0


def channels_last(space: Any) -> Any:
    """The space of an image with channels first, turned."""
    from gymnasium import spaces

    return spaces.Box(*(np.moveaxis(bound, 0, -1) for bound in (space.low, space.high)), dtype=space.dtype)


def same_image(one: Any, other: Any) -> bool:
    """Whether two spaces are one image, with channels first or last."""
    return _is_turned(one) and other.shape == channels_last(one).shape and other.dtype == one.dtype
