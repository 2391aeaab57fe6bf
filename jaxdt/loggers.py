"""Where a run's numbers go: JSON lines, and TensorBoard if asked for."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdt.errors import JaxdtError
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
        kept = [record for record in read_lines(path) if record["step"] <= last_step]
        with open_atomically(path) as file:
            file.writelines(json.dumps(record, allow_nan=False) + "\n" for record in kept)


class NoTensorBoard:
    """Takes the numbers and does nothing."""

    def write(self, step: int, numbers: Mapping[str, int | float]) -> None:
        pass

    def close(self) -> None:
        pass


class TensorBoard(NoTensorBoard):
    """Scalars for TensorBoard, through tensorboardX (extra `tensorboard`)."""

    def __init__(self, directory: Path):
        try:
            import tensorboardX.event_file_writer
        except ImportError as error:
            raise JaxdtError("--tensorboard needs tensorboardX; pip install 'jaxdt[tensorboard]'.") from error
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
