"""The same images give the same records and the same bytes, wherever their files lie."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from clipcap.data.readers import read_source
from small_world import make_tar

CAPTIONS = {
    "train": [["A dog, on grass.", "um cão na relva"], ['She said "hi".']],
    "validation": [["three | four"]],
    "test": [["one", "two", "three"], ["a, b; c\td"]],
}
Sample = tuple[str, bytes, list[str]]


def samples(split: str) -> list[Sample]:
    """The name, content and captions of the images of a split."""
    found = []
    for number, texts in enumerate(CAPTIONS[split]):
        content = io.BytesIO()
        Image.new("RGB", (8 + number, 5), (40 * number, 8 * len(split), 30)).save(content, "PNG")
        found.append((f"{split}{number}.png", content.getvalue(), texts))
    return found


def files(folder: Path) -> None:
    for split in CAPTIONS:
        (folder / split).mkdir(parents=True)
        for name, content, texts in samples(split):
            (folder / split / name).write_bytes(content)
            (folder / split / name).with_suffix(".txt").write_text("\n".join(texts), encoding="utf-8")


def webdataset(folder: Path) -> None:
    for split in CAPTIONS:
        tar = {}
        for name, content, texts in samples(split):
            tar[name] = content
            tar[f"{Path(name).stem}.txt"] = "\n".join(texts).encode()
        make_tar(folder / f"{split}-000000.tar", tar)


def img2dataset(folder: Path) -> None:
    for split in CAPTIONS:
        tar = {}
        for name, content, texts in samples(split):
            tar[name] = content
            tar[f"{Path(name).stem}.json"] = json.dumps({"caption": texts, "status": "success"}).encode()
        make_tar(folder / split / "00000.tar", tar)
        (folder / split / "00000_stats.json").write_text("{}")


def parquet_bytes(folder: Path) -> None:
    folder.mkdir()
    everything = [(split, content, texts) for split in CAPTIONS for _, content, texts in samples(split)]
    splits, contents, captions = zip(*everything, strict=True)
    table = pyarrow.table({"img": contents, "split": splits, "captions": captions})
    parquet.write_table(table, folder / "all.parquet", row_group_size=2)


def datasets(folder: Path) -> None:
    (folder / "data").mkdir(parents=True)
    for split in CAPTIONS:
        images = [{"bytes": content, "path": name} for name, content, _ in samples(split)]
        table = pyarrow.table({"image": images, "caption": [texts for _, _, texts in samples(split)]})
        parquet.write_table(table, folder / f"data/{split}-00000-of-00001.parquet")


def imagefolder(folder: Path) -> None:
    for split in CAPTIONS:
        (folder / split / "images").mkdir(parents=True)
        for name, content, _ in samples(split):
            (folder / split / "images" / name).write_bytes(content)
    rows = {split: [{"file_name": f"images/{n}", "text": t} for n, _, t in samples(split)] for split in CAPTIONS}
    with (folder / "train/metadata.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "text"])
        writer.writerows((row["file_name"], text) for row in rows["train"] for text in row["text"])
    lines = [json.dumps(row) for row in rows["validation"]]
    (folder / "validation/metadata.jsonl").write_text("\n".join(lines))
    parquet.write_table(pyarrow.Table.from_pylist(rows["test"]), folder / "test/metadata.parquet")


@pytest.mark.parametrize("make", [webdataset, img2dataset, parquet_bytes, datasets, imagefolder])
def test_archives_and_tables_give_what_files_give(tmp_path: Path, make: Callable[[Path], None]) -> None:
    found = []
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for write in (files, make):
        write(tmp_path / write.__name__)
    memory.put(f"{tmp_path}/", "/all/", recursive=True)
    for place in (tmp_path / "files", tmp_path / make.__name__, "memory://all/files", f"memory://all/{make.__name__}"):
        source = read_source(place)
        assert len({record.id for record in source.records}) == len(source.records) == 5
        assert source.missing == source.unlisted == []
        found.append(sorted((str(one.split), one.captions, source.images.read(one.path)) for one in source.records))
    assert found[0] == found[1] == found[2] == found[3]
    assert [split for split, _, _ in found[0]] == ["test", "test", "train", "train", "val"]
