"""Atari's colour screens as the grey pictures that agents see."""

import warnings
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxdt.games import GREY_PICTURE, game_of


COLOUR_SCREEN = (210, 160, 3)
_MADE_WITH = {"resize": "antialiased"}


def is_screen(shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether each step is a colour screen."""
    return shape[1:] == COLOUR_SCREEN and dtype == np.uint8


def grey_pictures(screens: UInt8[np.ndarray, "n 210 160 3"]) -> UInt8[np.ndarray, "n 84 84"]:
    """Pillow's `convert("L")`, then `resize((84, 84), BILINEAR)`, which is antialiased; the same to the last bit."""
    from jaxdt.resizing import resize  # which loads SciPy

    red, green, blue = (screens[..., i].astype(np.uint32) for i in range(3))
    grey = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    return resize(grey.astype(np.uint8), GREY_PICTURE, "antialiased")


def with_their_resizing(env_id: str | None, kwargs: dict[str, Any] | None) -> dict[str, Any] | None:
    """The keyword arguments with which a game is seen as `grey_pictures` are; a file's own go first."""
    return kwargs if game_of(env_id or "") is None else {**_MADE_WITH, **(kwargs or {})}


def warn_of_screens(source: str) -> None:
    """What they become."""
    warnings.warn(
        f"{source}: colour pictures of 210 x 160 are kept as grey ones of 84 x 84, made as Pillow's convert('L') and "
        "resize((84, 84), BILINEAR) make them, which is antialiased; evaluate with "
        "env_kwargs={'resize': 'antialiased'} (--env-kwargs '{\"resize\": \"antialiased\"}'), as is done "
        "where the file's env_id is a game's.",
        stacklevel=4,
    )
