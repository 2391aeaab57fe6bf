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
        "train: began after 30 s, compiling included",
        "train: 120/1000, loss 0.1235, 10.0 updates/s, 88 s left",
        "train: 1000/1000, loss 0.1235, 10.0 updates/s",
    ]


@pytest.mark.parametrize(("config", "kind"), [({"IPKernelApp": {}}, BarProgress), ({}, LineProgress)])
def test_a_notebook_has_bars_and_a_file_lines(monkeypatch, config, kind):
    shell = SimpleNamespace(config=config)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert type(jaxdt.console_progress()) is kind
