import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxdt.data.parquet_footer import promised_bytes
from tests.test_arrow import many_episodes


def write_footer(path, footer: bytes):
    path.write_bytes(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    return path


def test_the_promise_is_what_pyarrow_says(tmp_path):
    path = tmp_path / "a.parquet"
    more = {"flag": pa.array([True] * 40), "half": pa.array([0.5] * 40, pa.float16()), "text": pa.array(["a"] * 40)}
    table = pa.table({**many_episodes([3] * 40), **more}).replace_schema_metadata({"key": "value" * 100})
    pq.write_table(table, path, row_group_size=7, compression="zstd")
    metadata = pq.read_metadata(path)
    width = {"FLOAT": 4, "BOOLEAN": 1, "FIXED_LEN_BYTE_ARRAY": 2, "BYTE_ARRAY": 8}
    expected = dict.fromkeys(table.column_names, 0)
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            size = max(column.num_values * width[column.physical_type], column.total_uncompressed_size)
            expected[column.path_in_schema.split(".")[0]] += size
    assert metadata.num_row_groups == 6
    assert promised_bytes(path) == expected


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
        promised_bytes(write_footer(tmp_path / "a.parquet", footer))


@pytest.mark.parametrize("footer", [b"\x00", b"\x45\x02\x00", b"\x1c" * 100_000, b"\x49\x1c\x15\x02\x00\x00"])
def test_a_footer_of_another_shape_ends_in_an_error(tmp_path, footer):
    with pytest.raises((LookupError, TypeError, RecursionError)):
        promised_bytes(write_footer(tmp_path / "a.parquet", footer))
