"""Spreadsheets run no cell of a CSV that is written here, and every text is read as it was."""

import csv
import io
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from clipcap.caption.evaluate.base import Evaluated, Evaluation
from clipcap.caption.evaluate.outputs import write_csv
from clipcap.caption.evaluate.predictions import read_predictions
from clipcap.caption.outputs import Csv, Layout
from clipcap.data.csv_cells import escape_formula, unescape_formula, write_csv_row
from clipcap.data.errors import SourceError
from clipcap.data.metrics import mean_score
from clipcap.data.readers import read_source

FORMULAS = [
    "=1+1",
    '=HYPERLINK("x","y")',
    "+1",
    "-1",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "\uff1d1",
    "\uff0b1",
    "\uff0d1",
    "\uff20SUM(1)",
]
TEXTS = ["", "a dog", "'", "''", "'tis a dog", "''quoted''", "a = b", " =1", "5", "é"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_gets_one_apostrophe_and_loses_it_again(text: str) -> None:
    for apostrophes in ("", "'", "''"):
        assert escape_formula(apostrophes + text) == f"'{apostrophes}{text}"
        assert unescape_formula(f"'{apostrophes}{text}") == apostrophes + text
    assert unescape_formula(text) == text


@pytest.mark.parametrize("text", TEXTS)
def test_other_texts_are_their_own_cells(text: str) -> None:
    assert escape_formula(text) == unescape_formula(text) == text


def short_texts(characters: str) -> list[str]:
    """Return all texts of up to four of the characters."""
    return ["".join(text) for length in range(5) for text in product(characters, repeat=length)]


def test_every_text_survives_and_no_cell_begins_a_formula() -> None:
    for text in short_texts("'=+-@a\t\r\n\uff1d "):
        cell = escape_formula(text)
        assert unescape_formula(cell) == text
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"))


def test_a_row_is_one_row_whatever_its_texts_hold() -> None:
    for text in short_texts("'=a\r\n,\" "):
        stream = io.StringIO(newline="")
        write_csv_row(stream, [text, -0.5, None, "b", text])
        assert stream.getvalue().endswith("\n") and not stream.getvalue().endswith("\r\n")
        (row,) = csv.reader(io.StringIO(stream.getvalue(), newline=""))
        assert [unescape_formula(cell) for cell in (row[0], row[3], row[4])] == [text, "b", text]
        assert row[1:3] == ["-0.5", ""]


def test_a_line_break_in_a_text_begins_no_row() -> None:
    stream = io.StringIO(newline="")
    write_csv_row(stream, ["a.jpg", "a dog\r=1+1"])
    assert stream.getvalue() == 'a.jpg,"a dog\r=1+1"\n'


def test_captions_are_written_as_texts_and_read_as_they_were(tmp_path: Path) -> None:
    captions = {f"{text.strip() or 'blank'}{number}.jpg": text for number, text in enumerate(FORMULAS + TEXTS)}
    with (tmp_path / "c.csv").open("w", newline="") as stream:
        writer = Csv(stream, Layout(several_models=True))
        for name, caption in captions.items():
            writer.write(name, [caption], "-m")
        for name, caption in captions.items():
            writer.write(name, [caption], "other")
    with (tmp_path / "c.csv").open(newline="") as file:
        header, first, *_ = csv.reader(file)
    assert (header, first) == (["image", "model", "caption", "error"], ["'=1+10.jpg", "'-m", "'=1+1", ""])
    one, _ = read_predictions(tmp_path / "c.csv")
    assert one.model == "-m"
    assert one.captions == {name: caption.replace("\r", "\n") for name, caption in captions.items()}


def test_figures_stay_numbers() -> None:
    figures = {"X": mean_score(np.array([-0.5, 0.25]))}
    one = Evaluated(
        name="-m", ids=["-1", "2"], captions=["=1", "'=1"], references=[[], []], images=[None, None], scores=figures,
        intervals={}, text={}, unmatched={}, checkpoint=None,
    )  # fmt: skip
    stream = io.StringIO()
    write_csv(Evaluation(evaluated=[one], baselines=[], differences=[], cache=None, split=None), stream)
    assert stream.getvalue() == "id,caption,X\n'-1,'=1,-0.5\n2,''=1,0.25\n"


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_a_table_is_read_without_the_apostrophes_before_formulas(tmp_path: Path, delimiter: str) -> None:
    for name in ("-a.jpg", "b.jpg", "'c.jpg"):
        (tmp_path / name).write_bytes(b"")
    rows = [["'-a.jpg", "'=1 dog"], ["b.jpg", "''=1 dog"], ["'c.jpg", "'tis a dog"], ["b.jpg", "a dog"]]
    lines = [delimiter.join(row) for row in [["image", "caption"], *rows]]
    (tmp_path / ("t.csv" if delimiter == "," else "t.tsv")).write_text("\n".join(lines))
    assert {record.path: record.captions for record in read_source(tmp_path).records} == {
        "-a.jpg": ("=1 dog",),
        "b.jpg": ("'=1 dog", "a dog"),
        "'c.jpg": ("'tis a dog",),
    }


def test_an_apostrophe_behind_an_unquoted_comma_is_part_of_the_caption(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "t.csv").write_text("image,caption\na.jpg,'-a dog,'-a cat\n")
    assert [record.captions for record in read_source(tmp_path).records] == [("-a dog,'-a cat",)]


def test_a_name_with_an_apostrophe_before_it_is_found_within_an_unclosed_quote(tmp_path: Path) -> None:
    for name in ("-a.jpg", "-b.jpg"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "t.csv").write_text("image,caption\n'-a,\"A dog\n'-b,A cat\"\n")
    with pytest.raises(SourceError, match="it contains line 3, which is a row of its own"):
        read_source(tmp_path)
