"""Where a run's numbers go: JSON lines, and mirrors of them if asked for."""

import contextlib
import importlib.util
import itertools
import json
import netrc
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdt.errors import JaxdtError, RunError, one_line
from jaxdt.files import open_atomically, writing


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Raises WriteError where the disk refuses; the half line that it then may hold is none to `read_lines`."""
    line = json.dumps(record, allow_nan=False) + "\n"
    with writing(path), open(path, "a", encoding="utf-8") as file:
        file.write(line)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a `.jsonl` file, without a last line that is not finished yet; [] when absent."""
    if not path.exists():
        return []
    records = []
    complete = path.read_bytes().split(b"\n")[:-1]
    for number, line in enumerate(complete, start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise JaxdtError(f"{path} is damaged: line {number} is not JSON.") from error
        if not isinstance(record, dict):
            raise JaxdtError(f"{path} is damaged: line {number} is no JSON object; got {record!r:.40}.")
        records.append(record)
    return records


def read_evaluations(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Of `evaluations.jsonl`: a record a step and target, and one `step failed` an evaluation that failed."""
    records = read_lines(path)
    return [r for r in records if "failed" not in r], [r for r in records if "failed" in r]


def cut_lines(path: Path, last_step: int) -> None:
    """Drops the records after `last_step`, which a resumed run writes again."""
    if path.exists():
        records = read_lines(path)
        for number, record in enumerate(records, start=1):
            if type(record.get("step")) is not int:
                raise JaxdtError(f"{path} is damaged: step of line {number} must be a whole number (remove that line).")
        kept = [record for record in records if record["step"] <= last_step]
        with open_atomically(path) as file:
            file.writelines(json.dumps(record, allow_nan=False) + "\n" for record in kept)


def training_scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """Of a line of `metrics.jsonl`, by the names that mirrors are given."""
    return {f"training/{name}": value for name, value in line.items() if name != "step" and value is not None}


def evaluation_scalars(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of one evaluation's records, one a target, likewise.

    Targets are counted from the lowest, 1, so that runs on other data have curves of the same names.
    """
    scalars = {}
    for i, record in enumerate(sorted(records, key=lambda record: record["target"] or 0.0), start=1):
        head = "evaluation" if record["target"] is None else f"evaluation/target_{i}"
        for name in ("target", "return_mean", "return_std", "normalized_mean", "success_rate"):
            if record.get(name) is not None:
                scalars[f"{head}/{name}"] = record[name]
    return scalars


class Mirror:
    """Shows the numbers of a run elsewhere; `metrics.jsonl` and `evaluations.jsonl` stay what counts. This one: not."""

    def write(self, step: int, numbers: Mapping[str, int | float]) -> None:
        pass

    def close(self) -> None:
        pass


class TensorBoard(Mirror):
    """Scalars for TensorBoard, through tensorboardX (extra `tensorboard`)."""

    def __init__(self, directory: Path):
        check_installed("tensorboard")
        import tensorboardX.event_file_writer

        self._directory = directory
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
            # SummaryWriter's thread dies of a full disk without a word, and the next number waits for it forever.
            self._writer = tensorboardX.event_file_writer.EventsWriter(str(directory / "events"))

    def write(self, step: int, numbers: Mapping[str, int | float]) -> None:
        from tensorboardX.proto.event_pb2 import Event  # type: ignore[attr-defined]
        from tensorboardX.summary import scalar

        with writing(self._directory):
            for name, value in numbers.items():
                self._writer.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
            self._writer.flush()

    def close(self) -> None:
        with writing(self._directory):
            self._writer.close()


class Tracker(Mirror):
    """Weights & Biases or Trackio, whose calls are alike; what they raise is said once and ends no run.

    Every number comes with the run's own step. A killed process may lose the last numbers of Weights & Biases, which
    `jaxdt log` sends again.
    """

    def __init__(
        self, kind: str, directory: Path, *, project: str, name: str, config: Mapping[str, Any], strict: bool = False
    ):
        """`kind`: `wandb` or `trackio`; `directory`: of the run, where Weights & Biases keeps what it does not send.

        `strict`: what they raise becomes a RunError instead of a warning.
        """
        check_installed(kind)
        self._kind, self._run, self._strict = kind, None, strict
        with self._forgiving():
            module = importlib.import_module(kind)
            options: dict[str, Any] = {}
            if kind == "wandb":
                quiet = {"console": "off", "x_disable_stats": True, "disable_git": True, "disable_code": True}
                mode = {} if "WANDB_MODE" in os.environ or _has_wandb_key() else {"mode": "offline"}
                options = {"dir": str(directory), "settings": module.Settings(**quiet), "reinit": "create_new", **mode}
            self._run = module.init(project=project, name=name, config=dict(config), **options)
            if kind == "wandb":
                self._run.define_metric("*", step_metric="step")

    def write(self, step: int, numbers: Mapping[str, int | float]) -> None:
        with self._forgiving():
            if self._run is not None and self._kind == "wandb":
                self._run.log({**numbers, "step": step})
            elif self._run is not None:
                self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        with self._forgiving():
            if self._run is not None:
                self._run.finish()

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a client of a service raises whatever it likes
            self._run = None
            if self._strict:
                raise RunError(f"{self._kind} takes no numbers: {one_line(error, 200)}.") from error
            warnings.warn(
                f"{self._kind} is given no more numbers: {one_line(error, 200)}; the run goes on, and jaxdt log sends "
                "all of them later.",
                stacklevel=4,
            )


MIRRORS = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}
"""Names of flags and extras, and the module that each needs."""


def check_installed(kind: str) -> None:
    """Raises JaxdtError where what a mirror needs is not there."""
    if importlib.util.find_spec(MIRRORS[kind]) is None:
        raise JaxdtError(f"{kind} needs {MIRRORS[kind]}; pip install 'jaxdt[{kind}]'.")


def open_mirror(
    kind: str, directory: Path, *, project: str, name: str, config: Mapping[str, Any], afterwards: bool = False
) -> Mirror:
    """The one of that name, for the run in a directory; `afterwards`: it is given a whole run, apart from others."""
    if kind != "tensorboard":
        return Tracker(kind, directory, project=project, name=name, config=config, strict=afterwards)
    board = directory / "tensorboard"
    if afterwards:
        count = itertools.count(1)
        board = next(path for n in count if not (path := board / f"logged-{n}").exists())
    return TensorBoard(board)


def _has_wandb_key() -> bool:
    """Without one it would ask a person, or fail."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
