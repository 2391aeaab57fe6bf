import builtins
import collections
import io
import os
import pickle
import re
import subprocess
import sys
import tracemalloc

import pytest

from jaxdt import JaxdtError
from jaxdt.pickles import Stand, is_shape, read_pickle


def read(content: bytes, allowed=None, **options):
    return read_pickle(io.BytesIO(content), len(content), allowed or {}, source="a.pkl", **options)


def refusal(content: bytes, allowed=None) -> str:
    with pytest.raises(JaxdtError) as caught:
        read(content, allowed)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Calls:
    """Pickles as a call of `function` on `arguments`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class HasState:
    def __init__(self):
        self.value = 1


class Box(Stand):
    def set_state(self, state):
        self.state = state


def make_box(*arguments):
    assert not arguments
    return Box()


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_read_at_every_protocol(protocol):
    values = [{"a": [1, -(2**70), 2.5, None, True, b"\xff\x00", "é"], "t": (1, 2, 3, 4)}, collections.OrderedDict(a=1)]
    assert read(pickle.dumps(values, protocol)) == values


def test_shared_values_stay_shared():
    inner = [1]
    outer = read(pickle.dumps([inner, inner]))
    assert outer[0] is outer[1]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch {marker}",), "system"),
        (os.mkdir, ("{marker}",), "mkdir"),
        (builtins.eval, ("__import__('os').mkdir('{marker}')",), "eval"),
        (getattr, ("{marker}", "upper"), "getattr"),
        (pickle.loads, (b"",), "loads"),
    ],
)
def test_a_call_is_refused_by_name_and_never_made(tmp_path, function, arguments, name, protocol):
    marker = tmp_path / "ran"
    arguments = [a.format(marker=marker) if isinstance(a, str) else a for a in arguments]
    content = pickle.dumps([1, {"nested": [Calls(function, *arguments)]}], protocol)
    assert re.search(rf"asks to run \w+\.{name}, which", refusal(content))
    assert not marker.exists()


def test_the_trap_works(tmp_path):
    marker = tmp_path / "ran"
    pickle.loads(pickle.dumps(Calls(os.mkdir, str(marker))))
    assert marker.exists()


def test_a_call_hidden_in_the_arguments_of_an_allowed_one_is_refused():
    content = pickle.dumps(Calls(collections.OrderedDict, [("a", Calls(os.getcwd))]))
    assert "asks to run posix.getcwd" in refusal(content)


@pytest.mark.parametrize(
    "content",
    [
        b"(S'ls'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'ls'\no.",  # OBJ
        b"\x80\x02cos\nsystem\n)\x81.",  # NEWOBJ
        b"\x80\x04cos\nsystem\n)}\x92.",  # NEWOBJ_EX
        b"\x80\x02\x82\x01.",  # EXT1
        b"cos\nsystem\n(S'ls'\ntR.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R.",  # STACK_GLOBAL
        b"\x80\x04\x8c\x06jaxdt.\x8c\x04eval\x93.",
        b"]S'ls'\nR.",
        b"S'x'\n(S'ls'\ntR.",
        b"}}b.",
        b"P1\n.",
    ],
)
def test_instructions_that_could_run_something_are_refused(content):
    assert "asks to run" in refusal(content)


def test_only_what_stands_for_something_takes_a_state():
    assert "_reconstructor, which" in refusal(pickle.dumps(HasState(), 0))
    assert "asks to run tests.test_pickles.HasState" in refusal(pickle.dumps(HasState(), 4))
    box = read(b"cbox\nBox\n)R}S'a'\nI1\nsb.", {"box.Box": make_box})
    assert box.state == {"a": 1}
    # A function of ours must not be given attributes.
    assert "a state for function" in refusal(b"cbox\nBox\n}S'a'\nI1\nsb.", {"box.Box": make_box})


def test_a_value_of_ours_is_called_only_if_it_is_in_the_table():
    boxed = {"box.Box": make_box}
    assert isinstance(read(b"cbox\nBox\n)R.", boxed), Box)
    assert "a value of Box" in refusal(b"cbox\nBox\n)R)R.", boxed)


@pytest.mark.parametrize("content", [b"(cbox\nBox\no.", b"(ibox\nBox\n.", b"\x80\x02cbox\nBox\n)\x81."])
def test_what_is_allowed_is_called_in_one_way_only(content):
    assert "an instruction that calls a class" in refusal(content, {"box.Box": make_box})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b".",
        b"0.",
        b"hello\nworld",
        b"\x80\x09N.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7fabc",  # FRAME
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc",  # BINBYTES8
        b"\x96\xff\xff\xff\xff\xff\xff\xff\x7fabc",  # BYTEARRAY8
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc",  # BINUNICODE8
        b"T\xff\xff\xff\x7fabc",  # BINSTRING
        b"\x8b\xff\xff\xff\x7fabc",  # LONG4
        b"h\x05.",
        b"}]N s.",
        b"]}]Nss.",
        pickle.dumps(list(range(100)))[:-20],
    ],
)
def test_damaged_and_oversized_pickles_are_one_sentence(content):
    assert "is not a readable pickle" in refusal(content) or "asks to run" in refusal(content)


def test_a_memo_index_allocates_nothing():
    # The C unpickler makes a table of that many entries.
    assert read(b"(]r\xff\xff\xff\x7f.") == []


def test_nothing_is_read_beyond_the_size_given():
    file = io.BytesIO(b"\x80\x02N" + b"." + b"rest")
    assert read_pickle(file, 4, {}, source="a") is None
    with pytest.raises(JaxdtError):
        read_pickle(io.BytesIO(b"\x80\x02N."), 3, {}, source="a")


def test_persistent_ids_are_the_callers_to_answer():
    assert read(b"\x80\x02X\x01\x00\x00\x00aQ.", persistent=lambda pid: pid * 2) == "aa"


@pytest.mark.parametrize("size", [2**31, 2**62])
def test_a_bytearray_larger_than_the_file_is_refused_before_memory_is_taken(size):
    tracemalloc.start()
    message = refusal(b"\x80\x05\x96" + size.to_bytes(8, "little") + b"abc.")
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    assert "it ends" in message


@pytest.mark.parametrize(
    "call",
    [b"c_codecs\nencode\n(h\x00S'latin1'\ntR0", b"ccollections\nOrderedDict\n(h\x01tR0"],
    ids=["bytes", "dict"],
)
def test_calls_on_what_is_repeated_through_references_are_bounded(call):
    held = b"X" + (4000).to_bytes(4, "little") + b"a" * 4000 + b"q\x000"
    held += pickle.dumps(dict.fromkeys(range(300)), 2)[2:-1].replace(b"q\x00", b"q\x01") + b"0"
    assert read(held + 2 * call + b"N.") is None
    assert "what it repeats adds up to more than it holds" in refusal(held + 500 * call + b"N.")


def test_a_long_line_of_an_old_pickle_is_read():
    assert read(pickle.dumps("a" * 200_000, 0)) == "a" * 200_000


TUPLES = {
    "deep": b")" + 400_000 * b"\x85",
    "doubled": b")" + 60 * b"2\x86",
}


@pytest.mark.parametrize("kind", TUPLES)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"}", b"Ns."),  # SETITEM
        (b"}(", b"Nu."),  # SETITEMS
        (b"(", b"K\x01d."),  # DICT
        (b"\x8f(", b"\x90."),  # ADDITEMS
        (b"(", b"\x91."),  # FROZENSET
        (b"ccollections\nOrderedDict\n](", b"N\x86e\x85R."),
        (b"c_codecs\nencode\nS'a'\n", b"\x86R."),
        (b"", b"Q."),
    ],
    ids=["setitem", "setitems", "dict", "additems", "frozenset", "ordered", "encode", "persistent"],
)
def test_a_nested_tuple_is_neither_hashed_nor_shown(kind, before, after):
    """Hashing or showing it recurses in C without end: the first kind crashed the process, the second hung it."""
    content = b"\x80\x04" + before + TUPLES[kind] + after
    code = """
import io, sys
from jaxdt.pickles import brief, read_pickle
content = sys.stdin.buffer.read()
def persistent(pid):
    raise ValueError(brief(pid))
try:
    read_pickle(io.BytesIO(content), len(content), {}, source="a", persistent=persistent)
except ValueError as error:
    assert len(str(error)) < 300, error
else:
    raise SystemExit("it was read")
import os
os._exit(0)  # freeing the deep tuple is Python's own affair
"""
    done = subprocess.run([sys.executable, "-c", code], input=content, capture_output=True, timeout=20)
    assert done.returncode == 0, done.stderr.decode()[-500:]


def test_a_whole_number_of_many_bytes_is_refused():
    assert "a whole number of 300000 bytes" in refusal(
        b"\x80\x02\x8b" + (300_000).to_bytes(4, "little") + bytes(300_000)
    )


@pytest.mark.parametrize("shape", [(3, 4), (), (0,), (2**62,), (1,) * 64])
def test_a_shape_is_a_few_whole_numbers(shape):
    assert is_shape(shape)


@pytest.mark.parametrize("shape", [(2**63,), (-1,), (1,) * 65, [3], None, (1.0,), (True,), ((3,),)])
def test_what_is_no_shape(shape):
    assert not is_shape(shape)
