"""The table reader: every row keeps its own caption, and a file that cannot be read safely is refused by line."""

import json
from pathlib import Path

import pytest

from clipcap.data.errors import SourceError
from clipcap.data.readers import Columns, read_source
from clipcap.data.records import Source


def read(folder: Path, name: str, text: str, **columns: str) -> Source:
    """Read a folder with three images and one table."""
    for image in ("a.jpg", "b.jpg", "c.jpg"):
        (folder / image).write_bytes(b"")
    (folder / name).write_bytes(text.encode())
    return read_source(folder, columns=Columns(**columns))


def captions(source: Source) -> dict[str, tuple[str, ...]]:
    return {record.path: record.captions for record in source.records}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_an_index_column_without_a_name_as_pandas_writes_it_is_no_part_of_a_caption(tmp_path: Path, end: str) -> None:
    lines = [",image,caption", "12,a.jpg,A dog", '13,b.jpg,"A cat, asleep"', ""]
    assert captions(read(tmp_path, "t.csv", end.join(lines))) == {"a.jpg": ("A dog",), "b.jpg": ("A cat, asleep",)}


def test_an_unquoted_comma_in_the_last_column_belongs_to_the_caption(tmp_path: Path) -> None:
    source = read(tmp_path, "t.csv", ",image,caption\n0,a.jpg,A dog, brown, runs\n1,b.jpg,A cat\n")
    assert captions(source) == {"a.jpg": ("A dog, brown, runs",), "b.jpg": ("A cat",)}


def test_a_quoted_caption_may_span_lines(tmp_path: Path) -> None:
    text = 'image,caption\na.jpg,"A dog,\nb.jpg it is called.\n\nIt ""barks""."\nb.jpg,A cat\n'
    expected = {"a.jpg": ('A dog,\nb.jpg it is called.\n\nIt "barks".',), "b.jpg": ("A cat",)}
    assert captions(read(tmp_path, "t.csv", text)) == expected


def test_a_quoted_caption_that_spans_lines_may_stand_before_its_image(tmp_path: Path) -> None:
    text = 'caption,image\n"A dog,\nasleep",a.jpg\n"A cat,\nawake",b.jpg\n'
    assert captions(read(tmp_path, "t.csv", text)) == {"a.jpg": ("A dog,\nasleep",), "b.jpg": ("A cat,\nawake",)}


@pytest.mark.parametrize(
    "rows",
    [
        ['a.jpg,"A dog', "b.jpg,A cat", "c.jpg,A bird"],  # never closed
        ['a.jpg,"A dog', "b.jpg,A cat", 'c.jpg,She said "hi"'],  # closed within a later caption
        ['a.jpg,"A dog', 'b.jpg,"A cat"', "c.jpg,A bird"],  # closed where a later caption opens
        ['a.jpg,"A dog', 'b.jpg,A cat"', "c.jpg,A bird"],  # closed at the end of a later row
        ['a.jpg,"A dog', "gone.jpg,A cat", 'elsewhere/gone2.jpg,A cow"'],  # images that do not exist
        ['"a.jpg","A dog', '"b.jpg","A cat"', '"c.jpg","A bird"'],
        ['a.jpg,"A dog' + " and more" * 20_000, "b.jpg,A cat", 'c.jpg,A bird"'],  # longer than csv's longest field
    ],
)
@pytest.mark.parametrize("before", [[], ["c.jpg,A bird", 'c.jpg,"two', 'lines"', ""]])
def test_an_unclosed_quote_is_an_error_with_its_line(tmp_path: Path, before: list[str], rows: list[str]) -> None:
    text = "\n".join(["image,caption", *before, *rows, ""])
    with pytest.raises(SourceError, match=rf"t\.csv line {2 + len(before)}\b"):
        read(tmp_path, "t.csv", text)


def test_an_unclosed_quote_is_found_where_the_caption_stands_before_the_image(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"t\.csv line 3\b"):
        read(tmp_path, "t.csv", 'n,caption,image\n0,A bird,c.jpg\n1,"A dog, brown,a.jpg\n2,A cat",b.jpg\n')


@pytest.mark.parametrize("end", ["", "\n"])
def test_an_unclosed_quote_in_the_last_line_is_an_error(tmp_path: Path, end: str) -> None:
    with pytest.raises(SourceError, match=r"t\.csv line 3\b"):
        read(tmp_path, "t.csv", f'image,caption\na.jpg,A dog\nb.jpg,"A cat{end}')


def test_an_unclosed_quote_in_the_header_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"t\.csv line 1\b"):
        read(tmp_path, "t.csv", 'image,"caption\na.jpg,A dog\nb.jpg,A cat\n')


def test_quotes_within_one_line_are_read_leniently(tmp_path: Path) -> None:
    text = 'image,caption\na.jpg,She said "hi".\nb.jpg,"Hi" she said\nc.jpg,5" tall\n'
    expected = {"a.jpg": ('She said "hi".',), "b.jpg": ("Hi she said",), "c.jpg": ('5" tall',)}
    assert captions(read(tmp_path, "t.csv", text)) == expected


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_json_lines_end_at_newlines_alone(tmp_path: Path, separator: str) -> None:
    rows = [{"file_name": "a.jpg", "text": f"A dog{separator}runs"}, {"file_name": "b.jpg", "text": "A cat"}]
    escape = separator < " "  # JSON has control characters only escaped
    text = "\n".join(json.dumps(row, ensure_ascii=escape) for row in rows)
    assert captions(read(tmp_path, "t.jsonl", text)) == {"a.jpg": (f"A dog{separator}runs",), "b.jpg": ("A cat",)}
    with pytest.raises(SourceError, match=r"t\.jsonl line 3\b"):
        read(tmp_path, "t.jsonl", text + "\nno json")


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b"])
def test_rows_of_conceptual_captions_are_counted_by_newlines_alone(tmp_path: Path, separator: str) -> None:
    for number in (0, 1):
        (tmp_path / f"{number:08d}.jpg").write_bytes(b"")
    text = f"a dog{separator}runs\thttp://x.org/x\na cat\thttp://x.org/y\n"
    (tmp_path / "gcc.tsv").write_bytes(text.encode())
    source = read_source(tmp_path)
    assert captions(source) == {"00000000.jpg": (f"a dog{separator}runs",), "00000001.jpg": ("a cat",)}


def imagefolder(folder: Path, *metadata: str, header: str = "file_name,text") -> None:
    """Write metadata files in CSV, and beside each an image of the same name, 1.jpg."""
    for name in metadata:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{header}\n1.jpg,{name}\n")
        ((folder / name).parent / "1.jpg").write_bytes(b"")


def test_metadata_in_the_folder_of_each_split_is_read_together(tmp_path: Path) -> None:
    imagefolder(tmp_path, "train/metadata.csv", "data/validation/metadata.csv", "test/a/metadata.csv", "b/metadata.csv")
    (tmp_path / "train/other.csv").write_text("a,b\n1,2\n")
    source = read_source(tmp_path)
    assert (source.format, source.root, source.missing, source.unlisted) == ("table", tmp_path, [], [])
    assert [(record.path, record.split, record.captions) for record in source.records] == [
        ("b/1.jpg", None, ("b/metadata.csv",)),
        ("data/validation/1.jpg", "val", ("data/validation/metadata.csv",)),
        ("test/a/1.jpg", "test", ("test/a/metadata.csv",)),
        ("train/1.jpg", "train", ("train/metadata.csv",)),
    ]
    assert source.notes[0] == "b/metadata.csv: images from column 'file_name', captions from column 'text'"


def test_one_metadata_file_in_a_folder_below_is_read_with_its_split(tmp_path: Path) -> None:
    imagefolder(tmp_path, "val/metadata.csv")
    (record,) = read_source(tmp_path).records
    assert (record.path, record.split) == ("val/1.jpg", "val")
    (record,) = read_source(tmp_path / "val").records
    assert (record.path, record.split) == ("1.jpg", None)


def test_metadata_above_the_folders_of_the_splits_has_their_splits(tmp_path: Path) -> None:
    for name in ("train/1.jpg", "validation/1.jpg", "test/1.jpg", "rest/1.jpg", "test/2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    text = "file_name,text,split\ntrain/1.jpg,a,\nvalidation/1.jpg,b,\ntest/1.jpg,c,\nrest/1.jpg,d,\ntest/2.jpg,e,val\n"
    (tmp_path / "metadata.csv").write_text(text)
    assert [record.split for record in read_source(tmp_path).records] == ["train", "val", "test", None, "val"]
    (tmp_path / "metadata.csv").rename(tmp_path / "captions.csv")  # a name that says nothing about folders
    assert [record.split for record in read_source(tmp_path).records] == [None, None, None, None, "val"]


def test_metadata_at_the_top_and_below_is_read_together_and_nothing_of_a_similar_name(tmp_path: Path) -> None:
    imagefolder(tmp_path, "metadata.csv", "train/metadata.csv", "test/my_metadata.csv")
    source = read_source(tmp_path)
    assert captions(source) == {"1.jpg": ("metadata.csv",), "train/1.jpg": ("train/metadata.csv",)}
    assert source.unlisted == ["test/1.jpg"]


def test_metadata_goes_before_other_tables_beside_it(tmp_path: Path) -> None:
    imagefolder(tmp_path, "metadata.csv", "labels.csv")
    assert captions(read_source(tmp_path)) == {"1.jpg": ("metadata.csv",)}


def test_a_metadata_file_with_other_columns_is_a_table_only_at_the_top(tmp_path: Path) -> None:
    imagefolder(tmp_path, "metadata.csv", header="image,caption")
    assert captions(read_source(tmp_path)) == {"1.jpg": ("metadata.csv",)}
    imagefolder(tmp_path / "below", "train/metadata.csv", header="image,caption")
    assert read_source(tmp_path / "below").format == "folder"


def test_a_table_at_the_top_is_read_without_the_metadata_below(tmp_path: Path) -> None:
    imagefolder(tmp_path, "train/metadata.csv", "my.csv")
    assert captions(read_source(tmp_path)) == {"1.jpg": ("my.csv",)}


def test_metadata_in_parquet_is_read_by_row(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = [{"file_name": "a.jpg", "text": ["one", "two"]}, {"file_name": "b.jpg", "text": None}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "metadata.parquet")
    (tmp_path / "a.jpg").write_bytes(b"")
    source = read_source(tmp_path)
    assert source.format == "table"
    assert captions(source) == {"a.jpg": ("one", "two")}
    assert source.notes[1] == "1 rows of metadata.parquet without an image or a caption were left out"
    rows = [{"file_name": "a.jpg", "text": "one", "split": "holdout"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "metadata.parquet")
    with pytest.raises(SourceError, match=r"metadata\.parquet row 0 has the split 'holdout'"):
        read_source(tmp_path)


def test_a_table_in_two_formats_is_read_once(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    for name, column in (("metadata", "file_name"), ("captions", "image")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "a.jpg").write_bytes(b"")
        (folder / f"{name}.csv").write_text(f"{column},text\na.jpg,one\n")
        write_table(pyarrow.table({column: ["a.jpg"], "text": ["one"]}), folder / f"{name}.parquet")
        assert captions(read_source(folder)) == {"a.jpg": ("one",)}


def test_the_folders_above_the_dataset_are_no_splits(tmp_path: Path) -> None:
    folder = tmp_path / "test" / "set"
    imagefolder(folder, "metadata.csv")
    text = (folder / "metadata.csv").read_text().replace("1.jpg", str(folder / "1.jpg"))
    (folder / "metadata.csv").write_text(text)
    assert [record.split for record in read_source(folder).records] == [None]
