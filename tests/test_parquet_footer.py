import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxdt.data.formats.parquet_footer import declared_bytes
from tests.test_arrow import many_episodes, write_parquet


def write_footer(path, footer: bytes):
    path.write_bytes(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    return path


def promise(path, *names, most=2**40) -> int:
    return declared_bytes(path, names, most)


@pytest.mark.slow
def test_the_promise_is_what_the_pages_decode_to(tmp_path):
    path = tmp_path / "a.parquet"
    more = {"flag": pa.array([True] * 40), "text": pa.array(["a"] * 40)}
    table = pa.table({**many_episodes([300] * 40), **more}).replace_schema_metadata({"key": "value" * 100})
    for options in ({}, {"use_dictionary": False}, {"data_page_version": "2.0"}, {"data_page_size": 10_000}):
        pq.write_table(table, path, row_group_size=7, compression="zstd", **options)
        for name, width in (("observations", 3), ("actions", 2), ("rewards", 1), ("dones", 1)):
            assert 1 <= promise(path, name) / (12_000 * width * 4) < 3, name
    assert promise(path, "rewards", "actions") == promise(path, "rewards") + promise(path, "actions")
    assert promise(path, "nothing") == 0
    assert 100 < promise(path, "observations", most=100) < promise(path, "observations")


def test_the_pages_are_believed_rather_than_a_footer_that_says_less(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", **many_episodes([100_000, 1]))
    content = path.read_bytes()
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    said, less = b"\xc2\x9a\x0c", b"\x86\x80\x00"  # varints of 100,001 and of 3
    assert said in content[start:]
    path.write_bytes(content[:start] + content[start:].replace(said, less))
    assert pq.read_metadata(path).row_group(0).column(2).num_values == 3
    assert promise(path, "rewards") > 400_000


@pytest.mark.parametrize(
    ("footer", "message"),
    [
        (b"", "ends early"),
        (b"\x19", "ends early"),
        (b"\x18\xff\xff\xff\xff\x0f", "ends early"),
        (b"\x16" + b"\xff" * 1000, "too long"),
        (b"\x19\xfc" + b"\xff" * 1000, "too long"),
        (b"\x1d", "unknown kind 13"),
    ],
)
def test_a_damaged_footer_is_refused(tmp_path, footer, message):
    with pytest.raises(ValueError, match=message):
        promise(write_footer(tmp_path / "a.parquet", footer))


@pytest.mark.parametrize("footer", [b"\x00", b"\x45\x02\x00", b"\x1c" * 100_000, b"\x49\x1c\x15\x02\x00\x00"])
def test_a_footer_of_another_shape_ends_in_an_error(tmp_path, footer):
    with pytest.raises((LookupError, TypeError, RecursionError)):
        promise(write_footer(tmp_path / "a.parquet", footer))
