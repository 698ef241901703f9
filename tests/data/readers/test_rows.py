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


@pytest.mark.parametrize(("names", "has_names"), [(None, False), ([None, None], False), (["a.jpg", None], True)])
def test_clip_retrieval_rows_have_names_if_their_table_names_an_image(
    tmp_path: Path, names: list[str | None] | None, has_names: bool
) -> None:
    import pyarrow
    from pyarrow import parquet

    for folder in ("img_emb", "metadata"):
        (tmp_path / folder).mkdir()
    np.save(tmp_path / "img_emb/img_emb_0.npy", np.eye(2, 4, dtype=np.float16))
    if names is not None:
        table = pyarrow.table({"image_path": pyarrow.array(names, pyarrow.string()), "caption": ["x", "y"]})
        parquet.write_table(table, tmp_path / "metadata/metadata_0.parquet")
    source = read_source(tmp_path)
    assert source.has_names == has_names
    assert [record.id for record in source.records] == [(names or [None])[0] or "img_emb_0[0]", "img_emb_0[1]"]


def test_the_note_about_missing_captions_goes_when_they_are_added(tmp_path: Path) -> None:
    source = embeddings(tmp_path, "a.jpg", "b.jpg")
    assert any(note.startswith("no captions") for note in source.notes)
    combined = add_captions(source, table(tmp_path, "a.jpg,A dog"), tmp_path / "t.csv")
    assert not any(note.startswith("no captions") for note in combined.notes)
    assert combined.notes[-1].startswith("1 of 2 rows")
