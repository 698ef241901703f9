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
