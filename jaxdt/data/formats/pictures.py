"""Atari's colour screens as the grey pictures that agents see."""

import warnings

import numpy as np
from jaxtyping import UInt8

from jaxdt.errors import JaxdtError


SCREEN = (210, 160, 3)
SEEN = (84, 84)


def is_screen(shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether each step is a colour screen."""
    return shape[1:] == SCREEN and dtype == np.uint8


def grey_pictures(screens: UInt8[np.ndarray, "n 210 160 3"]) -> UInt8[np.ndarray, "n 84 84"]:
    """Pillow's `convert("L")`, then `resize((84, 84), BILINEAR)`, which is antialiased."""
    from PIL import Image

    seen = np.empty((len(screens), *SEEN), np.uint8)
    for picture, screen in zip(seen, screens, strict=True):
        picture[:] = np.asarray(Image.fromarray(screen).convert("L").resize(SEEN, Image.Resampling.BILINEAR))
    return seen


def warn_of_screens(source: str) -> None:
    """What they become; raises JaxdtError without Pillow."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise JaxdtError(
            f"{source}: colour pictures of 210 x 160 are made grey ones of 84 x 84 with Pillow, which is not here: "
            "pip install 'jaxdt[video]'."
        ) from error
    warnings.warn(
        f"{source}: colour pictures of 210 x 160 are kept as grey ones of 84 x 84, made with Pillow's convert('L') and "
        "resize((84, 84), BILINEAR), which is antialiased; evaluate on pictures that are made alike.",
        stacklevel=5,
    )
