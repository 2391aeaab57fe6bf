import struct
import sys

import pytest

from jaxdt import JaxdtError
from jaxdt.errors import RunError
from jaxdt.loggers import (
    TensorBoard,
    append_line,
    cut_lines,
    evaluation_scalars,
    open_mirror,
    read_evaluations,
    read_lines,
)
from jaxdt.run.mirrors import log


@pytest.fixture
def path(tmp_path):
    """Three finished lines."""
    for step in (10, 20, 30):
        append_line(tmp_path / "metrics.jsonl", {"step": step, "loss": step / 7})
    return tmp_path / "metrics.jsonl"


def test_lines_read_as_they_were_written(path):
    assert read_lines(path) == [{"step": step, "loss": step / 7} for step in (10, 20, 30)]


def test_a_record_is_one_line(tmp_path):
    record = {"step": 1, "note": "two\nlines — and more\u2028", "returns": [1.5, -2.0], "score": None}
    append_line(tmp_path / "a.jsonl", record)
    assert (tmp_path / "a.jsonl").read_bytes().count(b"\n") == 1
    assert read_lines(tmp_path / "a.jsonl") == [record]


def test_an_absent_file_has_no_lines(tmp_path):
    assert read_lines(tmp_path / "none.jsonl") == []
    cut_lines(tmp_path / "none.jsonl", 5)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_never_written(path, number):
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_line(path, {"step": 40, "loss": number})
    assert path.read_bytes() == before


@pytest.mark.parametrize("rest", [b"{", b'{"step": 40, "lo', b'{"step": 40}', b'{"note": "n\xc3'])
def test_a_last_line_that_is_not_finished_is_ignored(path, rest):
    with open(path, "ab") as file:
        file.write(rest)
    assert [record["step"] for record in read_lines(path)] == [10, 20, 30]


def test_cutting_drops_later_lines_and_the_unfinished_one(path):
    with open(path, "a") as file:
        file.write('{"step": 40, "lo')
    cut_lines(path, 20)
    assert path.read_text().endswith("}\n")
    append_line(path, {"step": 21})
    assert [record["step"] for record in read_lines(path)] == [10, 20, 21]
    assert [child.name for child in path.parent.iterdir()] == ["metrics.jsonl"]


def test_a_line_without_a_step_cannot_be_cut_and_is_named(tmp_path):
    append_line(tmp_path / "metrics.jsonl", {"step": 1})
    append_line(tmp_path / "metrics.jsonl", {"loss": 1.0})
    with pytest.raises(JaxdtError, match=r"metrics\.jsonl is damaged: step of line 2 must be a whole number"):
        cut_lines(tmp_path / "metrics.jsonl", 5)


def test_failed_evaluations_are_read_apart_and_cut_with_the_rest(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    records = [{"step": 1, "target": 5.0}, {"step": 2, "failed": "no motor"}, {"step": 3, "failed": "no motor"}]
    for record in records:
        append_line(path, record)
    assert read_evaluations(path) == (records[:1], records[1:])
    cut_lines(path, 2)
    assert read_evaluations(path) == (records[:1], records[1:2])


@pytest.mark.parametrize("damage", [b"{\n", b'{"step": 1} {"step": 2}\n', b"\n", b"\xff\xfe\n", bytes(9) + b"\n"])
def test_a_damaged_line_is_named(path, damage):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + damage + lines[2])
    with pytest.raises(JaxdtError, match=r"metrics\.jsonl is damaged: line 2 is not JSON\.$"):
        read_lines(path)


def test_tensorboard_gets_the_scalars(tmp_path):
    writer = TensorBoard(tmp_path)
    writer.write(7, {"loss": 0.125, "learning_rate": 1e-4})
    writer.close()
    (events,) = tmp_path.iterdir()
    assert events.name.startswith("events.out.tfevents")
    content = events.read_bytes()
    for name, value in (("loss", 0.125), ("learning_rate", 1e-4)):
        assert name.encode() in content
        assert struct.pack("<f", value) in content


class FakeTracker:
    """What Weights & Biases and Trackio have in common, and `failing` raises at the numbers of that step."""

    def __init__(self, failing=None):
        self.failing, self.options, self.logged, self.finished = failing, {}, [], False

    def Settings(self, **settings):
        return settings

    def init(self, **options):
        self.options = options
        return self

    def define_metric(self, *names, **options):
        pass

    def log(self, numbers, step=None):
        if self.failing == (numbers.get("step") or step):
            raise ConnectionError("the service is down")
        self.logged.append((dict(numbers), step))

    def finish(self):
        self.finished = True


@pytest.fixture
def fake(request, monkeypatch):
    """`fake(kind, ...)` takes the place of that module."""

    def take_its_place(kind, **options):
        tracker = FakeTracker(**options)
        tracker.__spec__ = object()
        monkeypatch.setitem(sys.modules, kind, tracker)
        return tracker

    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "/nowhere")
    monkeypatch.setenv("HOME", "/nowhere")
    return take_its_place


@pytest.mark.parametrize("kind", ["wandb", "trackio"])
def test_a_tracker_is_given_every_number_with_the_runs_own_step(fake, tmp_path, kind):
    tracker = fake(kind)
    mirror = open_mirror(kind, tmp_path, project="hops", name="run-1", config={"seed": 3})
    mirror.write(7, {"training/loss": 0.5})
    mirror.close()
    assert tracker.logged == (
        [({"training/loss": 0.5, "step": 7}, None)] if kind == "wandb" else [({"training/loss": 0.5}, 7)]
    )
    assert (tracker.options["project"], tracker.options["config"], tracker.finished) == ("hops", {"seed": 3}, True)
    if kind == "wandb":
        assert tracker.options["mode"] == "offline"  # without a key
        assert tracker.options["dir"] == str(tmp_path)


def test_a_tracker_that_raises_is_given_no_more_and_ends_nothing(fake, tmp_path):
    tracker = fake("trackio", failing=2)
    mirror = open_mirror("trackio", tmp_path, project="p", name="n", config={})
    mirror.write(1, {"a": 1.0})
    with pytest.warns(UserWarning, match="trackio is given no more numbers: the service is down; the run goes on"):
        mirror.write(2, {"a": 2.0})
    mirror.write(3, {"a": 3.0})
    mirror.close()
    assert [step for _, step in tracker.logged] == [1]


def test_targets_are_counted_so_that_curves_of_other_data_overlay():
    records = [
        {"target": target, "return_mean": mean, "return_std": 1.0, "normalized_mean": None}
        for target, mean in ((50.0, 45.0), (20.0, 21.0))
    ]
    scalars = evaluation_scalars(records)
    assert scalars["evaluation/target_1/return_mean"] == 21.0
    assert scalars["evaluation/target_2/target"] == 50.0
    untargeted = evaluation_scalars([{**records[0], "target": None, "normalized_mean": 7.0}])
    assert untargeted == {
        "evaluation/return_mean": 45.0,
        "evaluation/return_std": 1.0,
        "evaluation/normalized_mean": 7.0,
    }


def test_a_whole_run_is_logged_afterwards(fake, finished):
    tracker = fake("trackio")
    log(finished, to="trackio", project="later")
    metrics, (evaluations, _) = read_lines(finished / "metrics.jsonl"), read_evaluations(finished / "evaluations.jsonl")
    losses = {step: numbers["training/loss"] for numbers, step in tracker.logged if "training/loss" in numbers}
    assert losses == {line["step"]: line["loss"] for line in metrics}
    played = {step for numbers, step in tracker.logged if "evaluation/target_1/return_mean" in numbers}
    assert played == {line["step"] for line in evaluations}
    assert (tracker.options["name"], tracker.options["config"]["steps"]) == ("finished", 12)
    fake("trackio", failing=10)
    with pytest.raises(RunError, match="trackio takes no numbers: the service is down"):
        log(finished, to="trackio")
    with pytest.raises(JaxdtError, match="to one of tensorboard, wandb, trackio; got 'mlflow'"):
        log(finished, to="mlflow")


def test_a_missing_tensorboard_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(JaxdtError, match=r"^tensorboard needs tensorboardX; pip install 'jaxdt\[tensorboard\]'"):
        TensorBoard(tmp_path)
