"""Pictures that lie in data as PNG or JPEG files, and Atari's colour screens, as they are kept."""

import io
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

from jaxdt.data.formats.limits import TIMES_OF_PICTURES, size_limit
from jaxdt.data.formats.pictures import grey_pictures, is_screen, warn_of_screens, with_their_resizing
from jaxdt.errors import JaxdtError, one_line
from jaxdt.games import GREY_PICTURE


_BLOCK = 128  # pictures that lie decoded beside what they become
_FORMATS = ("PNG", "JPEG")
_CHANNELS = {"L": (), "RGB": (3,)}
"""What follows height and width in a picture's shape, by Pillow's name of what it holds: grey, or colours."""
_LARGEST = 2**26
"""Bytes that one picture may take, decoded: 4096 x 4096 in four colours."""


class PictureReader:
    """The pictures of one dataset, all alike, of which its files may hold so many bytes and no more."""

    def __init__(self, source: str, *files: Path):
        """`source`: what messages call the dataset; `files`: none where it lies in memory."""
        self._source, self._shape, self._has_screens = source, None, False
        self._left = size_limit(*files, times=TIMES_OF_PICTURES)

    def kept(self, values: Shaped[np.ndarray, "n *s"]) -> Shaped[np.ndarray, "n *z"]:
        """Grey pictures of Atari's colour screens, with a warning; anything else as it is."""
        if not is_screen(values.shape, values.dtype):
            return values
        if not self._has_screens:
            self._has_screens = True
            warn_of_screens(self._source)
        made = [grey_pictures(values[start : start + _BLOCK]) for start in range(0, len(values), _BLOCK)]
        return np.concatenate([np.zeros((0, *GREY_PICTURE), np.uint8), *made])

    def decoded(
        self, contents: Sequence[Any], place_of: Callable[[int], str]
    ) -> Iterator[UInt8[np.ndarray, "n h w *c"]]:
        """Blocks of what `kept` makes of PNG or JPEG files that lie in memory, in their order.

        `place_of(i)`: where file `i` stands, for messages. Raises JaxdtError for a file that is damaged, no such
        picture, or unlike the first.
        """
        for start in range(0, len(contents), _BLOCK):
            block = range(start, min(start + _BLOCK, len(contents)))
            yield self.kept(np.stack([self._decode(contents[i], place_of(i)) for i in block]))

    def environment(self, env_id: str | None, env_kwargs: dict[str, Any] | None) -> dict[str, Any]:
        """`env_id` and `env_kwargs`, with which a game is seen as its screens were made."""
        kwargs = with_their_resizing(env_id, env_kwargs) if self._has_screens else env_kwargs
        return {"env_id": env_id, "env_kwargs": kwargs}

    def _decode(self, content: Any, place: str) -> UInt8[np.ndarray, "h w *c"]:
        where = f"{self._source}: {place}"
        pillow = _pillow(where)
        if content is None or not len(content):
            raise JaxdtError(
                f"{where} has no bytes of a picture (a path to one is not followed); save the data with their pictures "
                "inside."
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what is refused below
                image = pillow.open(io.BytesIO(content), formats=_FORMATS)
        except Exception as error:  # damaged bytes make Pillow raise a dozen kinds
            raise JaxdtError(
                f"{where} is no PNG or JPEG file, or a damaged one (it begins with {bytes(content[:8])!r}); make it "
                "again."
            ) from error
        self._check(image, where)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of odd but harmless details
                return np.asarray(image)
        except Exception as error:  # as above
            raise JaxdtError(f"{where} is a damaged picture ({one_line(error, 200)}); make it again.") from error

    def _check(self, image: Any, where: str) -> None:
        """By its head alone."""
        if image.mode not in _CHANNELS:
            raise JaxdtError(
                f"{where} is a picture of Pillow's mode {image.mode!r:.20}; save it as grey ('L') or as colours "
                "('RGB')."
            )
        width, height = image.size
        shape = (height, width, *_CHANNELS[image.mode])
        if self._shape is None:
            self._shape = shape
        if shape != self._shape:
            raise JaxdtError(f"{where} is a picture of shape {shape}, the first of {self._shape}; make them agree.")
        self._left -= math.prod(_kept_shape(shape))
        if self._left < 0 or math.prod(shape) > _LARGEST:
            raise JaxdtError(
                f"{where} is a picture of shape {shape}, which would take far more memory than its files hold; make "
                "the pictures smaller, or copy the data again."
            )


def png_files(pictures: UInt8[np.ndarray, "n h w *c"], source: str, *, compressed: bool = True) -> Iterator[bytes]:
    """Of each picture, grey or of three colours, a PNG file, which loses nothing."""
    pillow = _pillow(source)
    for picture in pictures:
        content = io.BytesIO()
        pillow.fromarray(picture).save(content, "PNG", **({} if compressed else {"compress_level": 0}))
        yield content.getvalue()


def can_be_png(shape: tuple[int, ...], dtype: np.dtype) -> bool:
    return dtype == np.uint8 and len(shape) > 2 and shape[3:] in _CHANNELS.values()


def _pillow(where: str) -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise JaxdtError(f"{where} has pictures as files, which need Pillow; pip install 'jaxdt[pictures]'.") from error
    return Image


def kept_size(content: Any) -> int:
    """Bytes that a PNG or JPEG file becomes, by its head; raises what Pillow raises."""
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
        return math.prod(_kept_shape((image.height, image.width, *_CHANNELS[image.mode])))


def _kept_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return GREY_PICTURE if is_screen((1, *shape), np.dtype(np.uint8)) else shape
