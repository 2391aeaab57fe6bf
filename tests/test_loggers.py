import struct
import sys

import pytest

from jaxdt import JaxdtError
from jaxdt.loggers import NoTensorBoard, TensorBoard, append_line, cut_lines, read_evaluations, read_lines


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


def test_without_tensorboard_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    writer = NoTensorBoard()
    writer.write(7, {"loss": 0.125})
    writer.close()
    assert not list(tmp_path.iterdir())


def test_a_missing_tensorboard_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(JaxdtError, match=r"^--tensorboard needs tensorboardX; pip install 'jaxdt\[tensorboard\]'"):
        TensorBoard(tmp_path)
