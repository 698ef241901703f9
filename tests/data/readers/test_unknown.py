"""A source that no reader recognises is answered in three lines: what is there, the nearest format, and the way out."""

from pathlib import Path
from typing import Any

import pytest

from clipcap.data.errors import UnknownSourceError
from clipcap.data.readers import READERS, read_source

TABLE = "image,caption\na.jpg,x\n"


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def lines_for(path: Path) -> list[str]:
    with pytest.raises(UnknownSourceError) as caught:
        read_source(path)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("files", "found", "near", "fix"),
    [
        (
            {"a.csv": TABLE, "b.csv": TABLE, "x/c.md": ""},
            "2 .csv, 1 .md",
            "table; this is what a.csv, b.csv are",
            "give one of them, such as {}/a.csv",
        ),
        ({"x/a.csv": TABLE, "y.md": ""}, "1 .md, 1 .csv", "table; this is what x is", "give {}/x"),
        (
            {"c.json": '{"a.jpg": "x", "b.jpg": "y"}'},
            "1 .json",
            'coco; c.json has no "images"; it has "a.jpg", "b.jpg"',
            'add "images" and "annotations", or write a list: [{{"image": ..., "caption": ...}}]',
        ),
        (
            {"c.json": '{"images": [], "annotations": []}'},
            "1 .json",
            'coco; c.json has "images" and "annotations", but not the name of a file of COCO',
            "give {}/c.json with `format` coco",
        ),
        (
            {"c.json": '{"images": []}'},
            "1 .json",
            'karpathy; c.json has "images" but no "annotations"',
            'give {}/c.json with `format` karpathy, if its images have "sentences"',
        ),
        (
            {"c.json": '[{"file": "a.jpg", "text": "x"}]'},
            "1 .json",
            'flat; the entries of c.json need "image" and "caption"; they have "file", "text"',
            "rename them, or write a .jsonl and give `image_column` and `caption_column`",
        ),
        ({"c.json": "{"}, "1 .json", "coco; c.json is not JSON (Expecting property name ", "save {}/c.json again"),
        (
            {"t.csv": "caption\nx\n"},
            "1 .csv",
            "table; the first line of t.csv has one column: 'caption'",
            "begin it with the names of its columns, such as image,caption",
        ),
        (
            {"t.txt": "file;words\n"},
            "1 .txt",
            "table; t.txt is read as one only if you say so",
            "give {}/t.txt with `format` table, `image_column` and `caption_column`",
        ),
        (
            {"a.xml": "", "README": "", "b.xml": ""},
            "2 .xml, 1 without a suffix",
            "table; a.xml is a .xml, which is not read",
            "write the captions to a .csv with the columns image and caption",
        ),
        (
            {"a.SVG": ""},
            "1 .svg",
            "folder; a.SVG is a .svg, which is not read",
            "convert the images to JPEG or PNG",
        ),
        ({"all.zip": ""}, "1 .zip", "folder; all.zip is a .zip, which is not read", "unpack it, and give the folder"),
        (
            {"notes.md": "x", "read.txt": "Hello, reader"},
            "1 .md, 1 .txt",
            "none",
            f"give the folder or the file of a dataset, or say with `format` which it is: {', '.join(READERS)}",
        ),
        (
            {},
            "no files",
            "none",
            f"give the folder or the file of a dataset, or say with `format` which it is: {', '.join(READERS)}",
        ),
    ],
)
def test_an_unknown_folder_is_answered_in_three_lines(
    tmp_path: Path, files: dict[str, str], found: str, near: str, fix: str
) -> None:
    write(tmp_path, files)
    first, second, third = lines_for(tmp_path)
    assert first == f"{tmp_path} is not a dataset of a known format; found {found}"
    assert second.startswith(f"nearest format: {near}")
    assert third == f"to fix this, {fix.format(tmp_path)}"


@pytest.mark.parametrize(
    ("name", "text", "found", "near", "fix"),
    [
        ("a.jpg", "12345", "a .jpg of 5 bytes", "folder; a.jpg is one image", "give its folder, {}"),
        ("c.json", "[]", "a .json of 2 bytes", 'flat; the entries of c.json need "image" ', "rename them, or write "),
        ("x", "", "a file without a suffix of 0 bytes", "none", "give the folder or the file of a dataset, "),
        (
            "T.CSV",
            TABLE,
            "a .CSV of 22 bytes",
            "table; T.CSV is read as one only if you say so",
            "give {}/T.CSV with `format` table, `image_column` and `caption_column`",
        ),
    ],
)
def test_an_unknown_file_is_answered_in_three_lines(
    tmp_path: Path, name: str, text: str, found: str, near: str, fix: str
) -> None:
    write(tmp_path, {name: text})
    first, second, third = lines_for(tmp_path / name)
    assert first == f"{tmp_path}/{name} is not a dataset of a known format; found {found}"
    assert second.startswith(f"nearest format: {near}")
    assert third.startswith(f"to fix this, {fix.format(tmp_path)}")


def test_what_the_answer_proposes_is_read(tmp_path: Path) -> None:
    coco = '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "x"}]}'
    write(tmp_path, {"mine.json": coco, "T.CSV": TABLE})
    assert read_source(tmp_path / "mine.json", "coco").captions() == 1
    assert read_source(tmp_path / "T.CSV", "table").captions() == 1


def test_a_name_with_a_line_break_adds_no_line(tmp_path: Path) -> None:
    write(tmp_path, {"a\nb.xml": ""})
    assert len(lines_for(tmp_path)) == 3


def test_the_most_frequent_suffixes_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    write(tmp_path, {f"x{number}.{suffix}": "" for suffix in "abcdefgh" for number in range(1 + (suffix == "h"))})
    assert lines_for(tmp_path)[0].endswith("found 2 .h, 1 .a, 1 .b, 1 .c, 1 .d, 1 .e, 2 others")


def test_images_that_are_read_without_captions_say_what_may_hold_them(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": "", "b.jpg": "", "c.xml": ""})
    assert read_source(tmp_path).notes[1:] == [
        "if there are captions: the nearest format is table; c.xml is a .xml, which is not read; to have them read, "
        "write the captions to a .csv with the columns image and caption"
    ]
    assert len(read_source(tmp_path, "folder").notes) == 1  # that was asked for
    (tmp_path / "c.xml").rename(tmp_path / "c.svg")
    assert len(read_source(tmp_path).notes) == 1


def test_the_command_shows_three_lines_with_its_options(tmp_path: Path, run: Any) -> None:
    write(tmp_path, {"t.txt": "file;words\n"})
    result = run("precompute", tmp_path, "--dry-run")
    assert (result.status, result.out) == (2, "")
    assert result.err.splitlines() == [
        f"clipcap-precompute: {tmp_path} is not a dataset of a known format; found 1 .txt",
        "nearest format: table; t.txt is read as one only if you say so",
        f"to fix this, give {tmp_path}/t.txt with --format table, --image-column and --caption-column",
    ]
