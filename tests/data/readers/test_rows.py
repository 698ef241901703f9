"""Embeddings find the captions of another dataset by name, or by order where the rows have no names."""

from pathlib import Path

import numpy as np
import pytest

from clipcap.data.errors import SourceError
from clipcap.data.readers import read_source
from clipcap.data.readers.rows import add_captions
from clipcap.data.records import Source


def embeddings(folder: Path, *names: str) -> Source:
    np.savez(folder / "rows.npz", image=np.array(names), embedding=np.eye(len(names), 4, dtype=np.float32))
    return read_source(folder / "rows.npz")


def table(folder: Path, *rows: str) -> Source:
    (folder / "t.csv").write_text("image,caption\n" + "".join(f"{row}\n" for row in rows))
    return read_source(folder / "t.csv")


@pytest.mark.parametrize("names", [("dog [1]", "dog [2]"), ("x[0]", "a.jpg"), ("a.jpg", "x[0]")])
def test_names_that_end_in_a_bracket_are_names(tmp_path: Path, names: tuple[str, str]) -> None:
    source = embeddings(tmp_path, *names)
    captions = table(tmp_path, f"{names[1]},second", f"{names[0]},first")
    combined = add_captions(source, captions, tmp_path / "t.csv")
    assert [(record.path, record.captions) for record in combined.records] == [
        (names[0], ("first",)),
        (names[1], ("second",)),
    ]


def test_rows_without_names_take_captions_in_order(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.eye(2, 4, dtype=np.float32))
    source = read_source(tmp_path / "rows.npy")
    combined = add_captions(source, table(tmp_path, "b.jpg,first", "a.jpg,second"), tmp_path / "t.csv")
    assert [(record.path, record.captions) for record in combined.records] == [
        ("b.jpg", ("first",)),
        ("a.jpg", ("second",)),
    ]
    assert combined.embedding is source.embedding
    with pytest.raises(SourceError, match=r"t\.csv has captions of 3 .* 2 rows"):
        add_captions(source, table(tmp_path, "a.jpg,x", "b.jpg,y", "c.jpg,z"), tmp_path / "t.csv")
