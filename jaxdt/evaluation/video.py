"""Episodes as `.mp4` files."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num

from jaxdt import stepping
from jaxdt.errors import JaxdtError, WriteError, one_line
from jaxdt.files import writing
from jaxdt.progress import Progress
from jaxdt.simulator import make_simulator


def try_filming(environment: Any) -> None:
    """Makes a simulator, renders its first frame and looks for the encoder; raises JaxdtError naming what is missing.

    `environment`: an EnvironmentChoice, or its `env`.
    """
    _load_writer()
    simulator = make_simulator(environment, render=True)
    try:
        stepping.reset(simulator, 0)
        _frame(simulator)
    except stepping.BadStep as error:
        raise JaxdtError(f"the environment cannot be filmed: {error}.") from error
    finally:
        simulator.close()


def render_episode(
    path: Path, environment: Any, seed: int, actions: Num[np.ndarray, "t *a"], *, progress: Progress | None = None
) -> None:
    """Replays recorded actions from the seed they were recorded from; MuJoCo repeats the episode exactly.

    `environment`: an EnvironmentChoice, or its `env`. Raises JaxdtError naming what to install when the machine cannot
    render or encode.
    """
    progress = progress or Progress()
    writer_of = _load_writer()
    simulator = make_simulator(environment, render=True)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}.tmp.mp4")
    progress.start(f"render {path.name}", len(actions), "frame")
    try:
        simulator.reset(seed=seed)
        fps = int(simulator.metadata.get("render_fps", 30))
        # MuJoCo's frames need not be multiples of ffmpeg's 16-pixel blocks; imageio would resize them.
        with _fork_allowed(), writer_of(unfinished, fps=fps, macro_block_size=1) as writer:
            for step, action in enumerate(actions):
                writer.append_data(_frame(simulator))
                simulator.step(np.array(action))
                progress.advance(step + 1)
        os.replace(unfinished, path)
    except OSError as error:  # the encoder is another process, whose pipe breaks where the disk is full
        raise WriteError(f"{path} cannot be written: {one_line(error, 200)}") from error
    finally:
        progress.stop()
        simulator.close()
        unfinished.unlink(missing_ok=True)


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
