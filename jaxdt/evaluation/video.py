"""Episodes as `.mp4` files."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num

from jaxdt.errors import JaxdtError, WriteError, one_line
from jaxdt.files import writing
from jaxdt.progress import Progress
from jaxdt.simulator import make_simulator


def render_episode(
    path: Path, env_id: str, seed: int, actions: Num[np.ndarray, "t *a"], *, progress: Progress | None = None
) -> None:
    """Replays recorded actions from the seed they were recorded from; MuJoCo repeats the episode exactly.

    Raises JaxdtError naming what to install when the machine cannot render or encode.
    """
    progress = progress or Progress()
    writer_of = _load_writer()
    simulator = make_simulator(env_id, render=True)
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
                simulator.step(action)
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
        raise JaxdtError(f"this environment cannot be rendered: {one_line(error, 200)}.") from error
    except Exception as error:  # MuJoCo's renderers raise what their C library happens to raise
        raise JaxdtError(
            f"this machine cannot render ({type(error).__name__}: {error}); install EGL (Debian: apt install libegl1) "
            "or OSMesa (apt install libosmesa6) and set MUJOCO_GL to egl or osmesa."
        ) from error
    return np.asarray(frame)
