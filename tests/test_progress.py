"""What is shown of long work: bars where somebody looks on, lines where they are kept."""

import sys
from types import SimpleNamespace

import pytest

import jaxdt
from jaxdt import progress
from jaxdt.progress import BarProgress, LineProgress


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.seconds)
    return now


def test_lines_say_how_long_compiling_took_and_count_the_rate_from_there(clock, capsys):
    lines = LineProgress()
    lines.start("train", 1000, "update")
    for seconds, done in ((30, 10), (41, 120), (129, 1000)):
        clock.seconds = seconds
        lines.advance(done, loss=0.123456)
    assert capsys.readouterr().err.splitlines() == [
        "train: 0/1000, compiling",
        "train: began after 30 s, compiling included",
        "train: 120/1000, loss 0.1235, 10.0 updates/s, 88 s left",
        "train: 1000/1000, loss 0.1235, 10.0 updates/s",
    ]


def test_what_is_slower_than_one_a_second_is_given_in_seconds(clock, capsys):
    lines = LineProgress()
    lines.start("fine-tune", 4, "round")
    for seconds, done in ((30, 1), (80, 3), (130, 4)):
        clock.seconds = seconds
        lines.advance(done)
    assert capsys.readouterr().err.splitlines() == [
        "fine-tune: 0/4, compiling",
        "fine-tune: 1/4",
        "fine-tune: 3/4, 25.0 s/round, 25 s left",
        "fine-tune: 4/4, 33.3 s/round",
    ]


@pytest.mark.parametrize(("config", "kind"), [({"IPKernelApp": {}}, BarProgress), ({}, LineProgress)])
def test_a_notebook_has_bars_and_a_file_lines(monkeypatch, config, kind):
    shell = SimpleNamespace(config=config)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert type(jaxdt.console_progress()) is kind
