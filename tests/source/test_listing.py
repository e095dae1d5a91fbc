"""Everything footers can tell is checked at once, before any work, and named in one message."""

from __future__ import annotations

import datetime
import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distilbatch.errors import ConfigError, DataError
from distilbatch.fingerprint import sha256_footer
from distilbatch.source import footers
from distilbatch.source.listing import list_fragments


def put(path, columns, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **kwargs)
    return path


def listing(root, columns=(), **changes):
    arguments = {"text_column": "text", "partitioning": "hive", "glob": "**/*.parquet", "on_bad_file": "fail"}
    return list_fragments(root, columns=columns, **{**arguments, **changes})


def test_fragments_carry_identity_rows_and_text_bytes(tmp_path):
    put(tmp_path / "b.parquet", {"text": ["x"] * 5, "n": range(5)}, row_group_size=2)
    put(tmp_path / "dt=1/a.parquet", {"text": ["y" * 1000]})
    b, a = listing(tmp_path).fragments
    assert (b.path, b.num_rows, b.row_groups, b.partition) == ("b.parquet", 5, (2, 2, 1), ())
    assert (a.path, a.num_rows, a.partition) == ("dt=1/a.parquet", 1, (("dt", "1"),))
    assert a.text_bytes[0] > 1000 > b.text_bytes[0] > 0
    size = (tmp_path / "b.parquet").stat().st_size
    assert b.identity == ("b.parquet", size, sha256_footer(tmp_path / "b.parquet", size))


def test_one_file_is_a_source(tmp_path):
    path = put(tmp_path / "data=1" / "docs.pq", {"text": ["x"]})
    result = listing(path)
    assert [fragment.path for fragment in result.fragments] == ["docs.pq"]
    assert result.fragments[0].partition == ()


def test_listing_does_not_depend_on_the_order_of_creation(tmp_path):
    names = [f"{i}.parquet" for i in range(30)]
    for folder, seed in (("one", 0), ("two", 1)):
        for name in random.Random(seed).sample(names, len(names)):
            put(tmp_path / folder / name, {"text": [name]})
    assert listing(tmp_path / "one") == listing(tmp_path / "two")
    assert [fragment.path for fragment in listing(tmp_path / "one").fragments] == sorted(names)


TEXT_TYPES = {
    "string": pa.string(),
    "large_string": pa.large_string(),
    "string_view": pa.string_view(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
    "binary": pa.binary(),
    "large_binary": pa.large_binary(),
    "binary_view": pa.binary_view(),
}


@pytest.mark.parametrize("name", TEXT_TYPES)
def test_all_text_types_are_accepted(tmp_path, name):
    values = [b"x", None] if "binary" in name else ["x", None]
    put(tmp_path / "a.parquet", {"text": pa.array(values, TEXT_TYPES[name])})
    expected = {"string_view": "string", "dictionary": "string", "binary_view": "binary"}.get(name, name)
    assert str(listing(tmp_path).schema.field("text").type) == expected


@pytest.mark.parametrize(
    "values", [[1, 2], [1.5], [["x"]], [{"a": "x"}], pa.array([], pa.int8()), [datetime.date(2026, 1, 1)], [True]]
)
def test_other_text_types_are_bad_files(tmp_path, values):
    put(tmp_path / "a.parquet", {"text": values})
    with pytest.raises(DataError, match=r"column 'text' has type .*, expected string or binary"):
        listing(tmp_path)


def test_a_file_without_a_single_text_is_a_file_like_others(tmp_path):
    put(tmp_path / "a.parquet", {"text": pa.nulls(3)})
    put(tmp_path / "b.parquet", {"text": pa.nulls(0)})
    found = listing(tmp_path)
    assert ([fragment.num_rows for fragment in found.fragments], found.bad_files) == ([3, 0], ())
    assert found.schema.field("text").type == pa.string()


def test_a_file_without_rows_and_columns_has_nothing_to_refuse(tmp_path):
    put(tmp_path / "dt=1/a.parquet", {})
    assert listing(tmp_path).fragments[0].num_rows == 0
    with pytest.raises(ConfigError, match="no source file has a column 'id'; the nearest is 'dt'; columns: dt"):
        listing(tmp_path, ["id"])
    put(tmp_path / "dt=2/a.parquet", {"text": ["x"], "id": [1]})
    found = listing(tmp_path, ["id", "dt"])
    assert [fragment.num_rows for fragment in found.fragments] == [0, 1]
    assert found.schema.equals(pa.schema([("text", pa.string()), ("id", pa.int64()), ("dt", pa.string())]))
    put(tmp_path / "dt=3/a.parquet", {"body": pa.array([], pa.string())})
    with pytest.raises(DataError, match=r"dt=3/a.parquet: no column 'text'; columns: body"):
        listing(tmp_path)


def test_wanted_columns_are_unified_and_missing_ones_allowed_in_some_files(tmp_path):
    put(tmp_path / "a.parquet", {"text": ["x"], "id": pa.array([1], pa.int32()), "extra": [0.5]})
    put(tmp_path / "b.parquet", {"id": pa.array([1], pa.int64()), "text": pa.array(["x"], pa.large_string())})
    schema = listing(tmp_path, ["extra", "id"]).schema
    expected = pa.schema([("text", pa.large_string()), ("extra", pa.float64()), ("id", pa.int64())])
    assert schema.equals(expected, check_metadata=True)


def test_a_path_value_wins_over_a_column_and_is_text(tmp_path):
    put(tmp_path / "dt=1/a.parquet", {"text": ["x"], "dt": [7]})
    assert listing(tmp_path, ["dt"]).schema.field("dt").type == pa.string()
    assert listing(tmp_path, ["dt"], partitioning="none").schema.field("dt").type == pa.int64()


def test_a_column_no_file_has_is_a_config_error_with_the_nearest_name(tmp_path):
    put(tmp_path / "dt=1/a.parquet", {"text": ["x"], "review_id": [1]})
    message = "no source file has a column 'Reviewid'; the nearest is 'review_id'; columns: text, review_id, dt"
    with pytest.raises(ConfigError, match=message):
        listing(tmp_path, ["Reviewid"])


@pytest.mark.parametrize("on_bad_file", ["fail", "quarantine"])
def test_a_column_that_differs_in_case_is_not_taken_for_missing(tmp_path, on_bad_file):
    put(tmp_path / "a.parquet", {"text": ["x"], "id": [1]})
    put(tmp_path / "b.parquet", {"text": ["x"], "ID": [1]})
    with pytest.raises(DataError, match=r"column 'id' has another spelling in some files; found 'ID' in b.parquet;"):
        listing(tmp_path, ["id"], on_bad_file=on_bad_file)
    assert listing(tmp_path, ["id", "ID"]).schema.names == ["text", "id", "ID"]
    put(tmp_path / "b.parquet", {"text": ["x"], "TEXT": ["y"], "id": [1]})
    assert listing(tmp_path, ["TEXT"]).schema.names == ["text", "TEXT"]
    assert listing(tmp_path).schema.names == ["text"]


def test_a_partition_key_that_differs_in_case_is_not_taken_for_missing(tmp_path):
    put(tmp_path / "dt=1/a.parquet", {"text": ["x"]})
    put(tmp_path / "DT=2/a.parquet", {"text": ["x"]})
    with pytest.raises(DataError, match=r"'dt' has another spelling in some files; found 'DT' in DT=2/a.parquet"):
        listing(tmp_path, ["dt"])
    assert listing(tmp_path, ["dt", "DT"]).schema.names == ["text", "dt", "DT"]


def test_the_text_column_may_not_be_a_partition_key(tmp_path):
    put(tmp_path / "text=1/a.parquet", {"text": ["x"]})
    with pytest.raises(ConfigError, match=r"text column 'text' is also a partition key, in text=1/a.parquet"):
        listing(tmp_path)


def test_missing_and_empty_sources_say_what_to_check(tmp_path):
    with pytest.raises(DataError, match="expected an existing folder or Parquet file; found nothing there"):
        listing(tmp_path / "nowhere")
    (tmp_path / "a.csv").touch()
    with pytest.raises(DataError, match=r"has no files that match '\*\*/\*.parquet'; check the folder and the glob"):
        listing(tmp_path)


@pytest.mark.parametrize(("name", "value"), [("partitioning", "spark"), ("on_bad_file", "ignore")])
def test_unknown_settings_are_refused(tmp_path, name, value):
    with pytest.raises(ConfigError, match=f"{name}; expected '.*' or '.*'; found '{value}'"):
        listing(tmp_path, **{name: value})


def make_bad_files(root):
    whole = put(root / "good.parquet", {"text": ["x"] * 100}).read_bytes()
    (root / "empty.parquet").touch()
    (root / "text.parquet").write_text("id,text\n1,hello\n" * 9)
    (root / "cut.parquet").write_bytes(whole[:-10])
    (root / "head.parquet").write_bytes(whole[:6])
    (root / "footer.parquet").write_bytes(whole[:-8] + b"\xff\xff\xff\x7f" + b"PAR1")
    (root / "crypt.parquet").write_bytes(b"PARE" + whole[4:-4] + b"PARE")
    put(root / "column.parquet", {"Text": ["x"], "b": [1]})
    put(root / "dup=1/dup=2/a.parquet", {"text": ["x"]})
    return {
        "empty.parquet": "an empty file of 0 bytes",
        "text.parquet": "not a Parquet file: it does not start with PAR1",
        "cut.parquet": "a truncated Parquet file: it does not end with PAR1",
        "head.parquet": "a truncated Parquet file: it does not end with PAR1",
        "footer.parquet": "a truncated Parquet file: its footer is longer than the file",
        "crypt.parquet": "an encrypted Parquet file",
        "column.parquet": "no column 'text'; the nearest is 'Text'; columns: Text, b",
        "dup=1/dup=2/a.parquet": "expected each partition key once in a path, found 'dup' twice",
    }


def test_all_bad_files_are_named_at_once(tmp_path):
    reasons = make_bad_files(tmp_path)
    with pytest.raises(DataError) as caught:
        listing(tmp_path)
    assert caught.value.what == "8 of 9 source files cannot be read"
    assert caught.value.found == " | ".join(f"{path}: {reasons[path]}" for path in sorted(reasons))
    assert "on_bad_file: quarantine" in caught.value.remedy


def test_quarantine_sets_bad_files_aside_and_lists_them(tmp_path):
    reasons = make_bad_files(tmp_path)
    result = listing(tmp_path, on_bad_file="quarantine")
    assert [fragment.path for fragment in result.fragments] == ["good.parquet"]
    assert {bad.path: bad.reason for bad in result.bad_files} == reasons


def test_quarantine_of_every_file_is_an_error(tmp_path):
    (tmp_path / "a.parquet").touch()
    with pytest.raises(DataError, match="1 of 1 source files cannot be read"):
        listing(tmp_path, on_bad_file="quarantine")


def test_many_bad_files_are_counted(tmp_path):
    for number in range(25):
        (tmp_path / f"{number:02d}.parquet").touch()
    with pytest.raises(DataError, match=r"09.parquet: an empty file of 0 bytes \| and 15 more;"):
        listing(tmp_path)


@pytest.mark.parametrize("on_bad_file", ["fail", "quarantine"])
def test_types_that_clash_end_the_listing_under_both_policies(tmp_path, on_bad_file):
    put(tmp_path / "a.parquet", {"text": ["x"], "id": [1]})
    put(tmp_path / "b.parquet", {"text": ["x"], "id": ["1"]})
    with pytest.raises(DataError, match=r"found int64 in a.parquet, string in b.parquet"):
        listing(tmp_path, ["id"], on_bad_file=on_bad_file)


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="2 columns named 'text'"):
        listing(tmp_path)


def test_extension_types_are_refused_for_wanted_columns_only(tmp_path):
    tensor = pa.FixedShapeTensorArray.from_storage(
        pa.fixed_shape_tensor(pa.int32(), [2]), pa.array([[1, 2]], pa.list_(pa.int32(), 2))
    )
    put(tmp_path / "a.parquet", {"text": ["x"], "tensor": tensor})
    assert listing(tmp_path).schema.names == ["text"]
    with pytest.raises(DataError, match=r"column 'tensor' has the extension type 'arrow.fixed_shape_tensor'"):
        listing(tmp_path, ["tensor"])


def test_nested_and_dotted_columns_do_not_confuse_the_text_column(tmp_path):
    put(tmp_path / "a.parquet", {"text.x": [{"text": "no"}], "text": ["y" * 5000], "z": [["a", "b"]]})
    fragment = listing(tmp_path, ["z", "text.x"]).fragments[0]
    assert fragment.text_bytes[0] > 5000


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [
        ("MAX_ROW_GROUP_BYTES", 1000, r"row group 0 of \d+ bytes, over 1000"),
        ("RATIO_FLOOR_BYTES", 1000, r"row group 0, column 'text' would grow from \d+ to \d+ bytes, more than 1000"),
        ("MAX_ROW_GROUP_ROWS", 1, "row group 0 claims 2 rows"),
    ],
)
def test_absurd_footers_are_refused(tmp_path, monkeypatch, limit, value, message):
    put(tmp_path / "a.parquet", {"text": ["x" * 5_000_000, "y"]}, compression="zstd", use_dictionary=False)
    assert listing(tmp_path).bad_files == ()
    monkeypatch.setattr(footers, limit, value)
    with pytest.raises(DataError, match=message):
        listing(tmp_path)


def test_row_groups_that_do_not_add_up_are_refused(tmp_path):
    path = put(tmp_path / "a.parquet", {"text": ["x"] * 300}, row_group_size=100)
    whole = path.read_bytes()
    assert whole.count(b"\x16\xd8\x04") == 1  # FileMetaData.num_rows, a zigzag varint
    path.write_bytes(whole.replace(b"\x16\xd8\x04", b"\x16\xda\x04"))
    with pytest.raises(DataError, match="row groups of 300 rows in a file of 301"):
        listing(tmp_path)


def test_every_prefix_of_a_file_is_a_bad_file(tmp_path):
    texts = [os.urandom(30).hex() for _ in range(500)]
    whole = put(tmp_path / "a.parquet", {"text": texts}, row_group_size=100).read_bytes()
    for size in range(0, len(whole), 1024):
        (tmp_path / "a.parquet").write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"a.parquet: (a truncated|an empty)"):
            listing(tmp_path)


FLIP_FOOTER_BITS = """
    import random, sys
    from pathlib import Path
    from distilbatch.errors import ConfigError, DataError
    from distilbatch.source.listing import list_fragments
    path = Path(sys.argv[1])
    whole = path.read_bytes()
    footer_bytes = int.from_bytes(whole[-8:-4], "little") + 8
    generator = random.Random(19)
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[len(whole) - 1 - generator.randrange(footer_bytes)] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        try:
            list_fragments(
                path, text_column="text", columns=["n"], partitioning="none", glob="*", on_bad_file="fail"
            )
        except (DataError, ConfigError):
            refused += 1
    print(refused)
"""


def test_a_damaged_footer_never_ends_the_process(tmp_path):
    # In a process of its own: Arrow ends it for some damages if it is asked for a column chunk unprepared.
    path = put(tmp_path / "a.parquet", {"text": [str(i) for i in range(300)], "n": range(300)}, row_group_size=100)
    command = [sys.executable, "-c", textwrap.dedent(FLIP_FOOTER_BITS), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 100


@pytest.mark.parametrize(
    ("name", "found"),
    [("none", "nothing there"), ("x" * 300, "File name too long"), ("a\0b", "embedded null byte"),
     ("loop", "Too many levels of symbolic links")],
    ids=["none", "long", "null", "loop"],
)  # fmt: skip
def test_a_path_that_cannot_be_looked_at_is_refused_like_one_that_is_not_there(tmp_path, name, found):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DataError, match=rf"expected an existing folder or Parquet file; found {found}; check the path"):
        listing(tmp_path / name)
