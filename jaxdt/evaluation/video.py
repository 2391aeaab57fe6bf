"""Episodes as `.mp4` files."""

import contextlib
import math
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Num

from jaxdt import stepping
from jaxdt.errors import JaxdtError, WriteError, one_line
from jaxdt.files import writing
from jaxdt.progress import Progress, decimals
from jaxdt.simulator import make_simulator


_LARGER = 100.0
"""Times that a floor of Gymnasium's, 80 m wide, is larger in a film: a HalfCheetah leaves it after 150 steps."""


_NARROWEST = 320
"""Columns of a film: an Atari screen has 160, into which no caption fits."""


def try_filming(environment: Any) -> None:
    """Makes a simulator, renders its first frame and looks for the encoder; raises JaxdtError naming what is missing.

    `environment`: an EnvironmentChoice, or its `env`.
    """
    _load_writer()
    simulator = make_simulator(environment, render=True)
    try:
        stepping.reset(simulator, 0)
        _with_text(_frame(simulator), _caption(None, np.zeros(1), 0))
    except stepping.BadStep as error:
        raise JaxdtError(f"the environment cannot be filmed: {error}.") from error
    finally:
        simulator.close()


class Take(NamedTuple):
    """An episode to film."""

    seed: int
    """That it begins from."""
    actions: Num[np.ndarray, "t *a"]
    rewards: Float[np.ndarray, " t"]
    target: float | None
    """The return that was asked for."""


def render_episode(
    path: Path,
    environment: Any,
    take: Take,
    *,
    frames: int | None = None,
    every: int = 1,
    progress: Progress | None = None,
) -> None:
    """Replays recorded actions; MuJoCo repeats the episode exactly. Target and return so far are in the picture.

    - `environment`: an EnvironmentChoice, or its `env`.
    - `every`: film every so-many-th step, as long as the episode took; `frames`: at most so many, then the film ends.

    Raises JaxdtError naming what to install when the machine cannot render or encode.
    """
    progress = progress or Progress()
    writer_of = _load_writer()
    simulator = make_simulator(environment, render=True)
    undress = _dress(simulator)
    shown = range(0, len(take.actions) + 1, every)[:frames]
    earned = np.concatenate([[0.0], np.cumsum(take.rewards, dtype=np.float64)])
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}.tmp.mp4")
    progress.start(f"render {path.name}", len(shown), "frame")
    try:
        simulator.reset(seed=take.seed)
        fps = simulator.metadata.get("render_fps", 30) / every
        # MuJoCo's frames need not be multiples of ffmpeg's 16-pixel blocks; imageio would resize them.
        with _fork_allowed(), writer_of(unfinished, fps=fps, macro_block_size=1) as writer:
            for step in range(shown[-1] + 1):
                if step > 0:
                    action = stepping.playable(take.actions[step - 1 : step], simulator.action_space)[0]
                    stepping.step(simulator, action)
                if step in shown:
                    writer.append_data(_with_text(_frame(simulator), _caption(take.target, earned, step)))
                    progress.advance(shown.index(step) + 1)
        os.replace(unfinished, path)
    except stepping.BadStep as error:
        raise JaxdtError(f"the environment cannot be filmed: {error}.") from error
    except OSError as error:  # the encoder is another process, whose pipe breaks where the disk is full
        raise WriteError(f"{path} cannot be written: {one_line(error, 200)}") from error
    finally:
        progress.stop()
        undress()  # it may be the caller's own
        simulator.close()
        unfinished.unlink(missing_ok=True)


def _dress(simulator: Any) -> Callable[[], None]:
    """Makes the floor large enough for any run, and the picture cheap; what is returned takes it back.

    What touches a plane meets one without end, however large it is drawn. Smoothed edges and shadows of 4,096 pixels
    are three quarters of what a frame takes where no GPU draws it.
    """
    model: Any = getattr(simulator.unwrapped, "model", None)
    if not hasattr(model, "geom_matid"):
        return lambda: None
    from mujoco import mjtGeom  # type: ignore[attr-defined]

    quality, sizes, repeats = model.vis.quality, model.geom_size.copy(), model.mat_texrepeat.copy()
    before = quality.offsamples, quality.shadowsize

    def undress() -> None:
        model.geom_size[:], model.mat_texrepeat[:] = sizes, repeats
        quality.offsamples, quality.shadowsize = before

    quality.offsamples, quality.shadowsize = 0, 1024
    planes = model.geom_type == mjtGeom.mjGEOM_PLANE
    for geom in np.flatnonzero(planes & (model.geom_size[:, :2] > 0).all(axis=1)):
        model.geom_size[geom, :2] *= _LARGER
        material = model.geom_matid[geom]
        if material >= 0 and not model.mat_texuniform[material]:
            model.mat_texrepeat[material] *= _LARGER  # tiles stay as large as they were
    return undress


def _caption(target: float | None, earned: Float[np.ndarray, " t"], step: int) -> str:
    form = decimals(target, earned[-1])
    asked = "" if target is None else f"target {target:{form}}   "
    return f"{asked}return {earned[step]:{form}}   step {step}"


def _with_text(picture: np.ndarray, text: str) -> np.ndarray:
    """The picture with a line at its top left, where it has colours of a byte each; enlarged where that is too long."""
    if picture.dtype != np.uint8 or picture.shape[-1] not in (3, 4):
        return picture
    from PIL import Image, ImageDraw, ImageFont

    times = math.ceil(_NARROWEST / picture.shape[1])
    picture = picture.repeat(times, axis=0).repeat(times, axis=1)
    image = Image.fromarray(picture)
    size = max(12, picture.shape[0] // 24)
    style = {"font": ImageFont.load_default(size=size), "stroke_width": 2, "stroke_fill": (0, 0, 0)}
    ImageDraw.Draw(image).text((size // 2, size // 2), text, fill=(255, 255, 255), **style)
    return np.asarray(image)


@contextlib.contextmanager
def _fork_allowed() -> Iterator[None]:
    """JAX warns of every fork; the encoder's child becomes another program at once, so it holds no lock of ours."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
        yield


def _load_writer() -> Any:
    try:
        import imageio
        import imageio_ffmpeg  # noqa: F401  (the encoder behind .mp4)
    except ImportError as error:
        raise JaxdtError("videos need imageio with ffmpeg; pip install 'jaxdt[video]'.") from error
    return imageio.get_writer


def _frame(simulator: Any) -> np.ndarray:
    import gymnasium

    try:
        frame = simulator.render()
    except gymnasium.error.DependencyNotInstalled as error:
        raise JaxdtError(f"this environment cannot be rendered: {one_line(error, 200).rstrip('.')}.") from error
    except Exception as error:  # MuJoCo's renderers raise what their C library happens to raise
        reason = type(error).__name__ + (f": {one_line(error, 200)}" if str(error) else "")
        if not hasattr(simulator.unwrapped, "mujoco_renderer"):
            raise JaxdtError(
                f"this environment cannot be rendered: its render raised {reason}; leave the video out."
            ) from error
        raise JaxdtError(
            f"this machine cannot render ({reason}); install EGL (Debian: apt install libegl1) or OSMesa (apt install "
            "libosmesa6) and set MUJOCO_GL to egl or osmesa."
        ) from error
    picture = np.asarray(frame)
    if picture.ndim != 3 or picture.dtype.kind not in "uif":
        raise JaxdtError(
            f"this environment cannot be rendered: its render returned {type(frame).__name__}, not a picture (its "
            f"render_mode is {getattr(simulator, 'render_mode', None)!r}, and must be rgb_array); leave the video out."
        )
    return picture
