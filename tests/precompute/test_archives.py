"""Stage 1 on images inside archives and tables: the embeddings are those of the same images as files."""

import json
from pathlib import Path
from typing import Any

import pytest

from clipcap.data.cache.index import Cache
from small_world import make_tar, small_models


def rows(cache: Path) -> dict[str, tuple[str, list[str], bytes]]:
    """What a cache says of each image by its number in COCO: split, captions and embedding."""
    found = {}
    for shard in Cache.open(cache).tables():
        for i, path in enumerate(shard.path):
            texts = shard.text[shard.first_caption[i] : shard.first_caption[i + 1]]
            found[Path(path).stem] = (("train", "val", "test")[shard.split[i]], texts, shard.embedding[i].tobytes())
    return found


def samples(coco: Path) -> dict[str, list[tuple[Path, list[str]]]]:
    """The image files and captions of a COCO folder by split."""
    found: dict[str, list[tuple[Path, list[str]]]] = {}
    for split in ("train", "val"):
        content = json.loads((coco / f"annotations/captions_{split}2017.json").read_text())
        texts: dict[int, list[str]] = {}
        for annotation in content["annotations"]:
            texts.setdefault(annotation["image_id"], []).append(annotation["caption"])
        found[split] = [(coco / f"{split}2017" / image["file_name"], texts[image["id"]]) for image in content["images"]]
    return found


def webdataset(coco: Path, folder: Path) -> None:
    for split, images in samples(coco).items():
        tar = {}
        for file, texts in images:
            tar[file.name] = file.read_bytes()
            tar[f"{file.stem}.txt"] = "\n".join(texts).encode()
        make_tar(folder / f"{split}-00000.tar", tar)


def parquet(coco: Path, folder: Path) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    (folder / "data").mkdir(parents=True)
    for split, name in (("train", "train-00000-of-00001"), ("val", "validation-00000-of-00001")):
        images = [{"bytes": file.read_bytes(), "path": file.name} for file, _ in samples(coco)[split]]
        table = pyarrow.table({"image": images, "captions": [texts for _, texts in samples(coco)[split]]})
        write_table(table, folder / f"data/{name}.parquet", row_group_size=5)


@pytest.mark.parametrize("make", [webdataset, parquet])
@pytest.mark.parametrize("workers", [0, 2])
def test_embeddings_from_an_archive_are_those_from_files(
    coco: Path, tmp_path: Path, run: Any, clip_folder: Path, tokenizer_folder: Path, make: Any, workers: int
) -> None:
    models = [*small_models(clip_folder, tokenizer_folder), "--workers", workers]
    assert run("precompute", coco, "-o", tmp_path / "files.h5", *models).status == 0
    make(coco, tmp_path / "archive")
    result = run("precompute", tmp_path / "archive", "-o", tmp_path / "archive.h5", *models)
    assert result.status == 0, result.err
    assert f"archive: {make.__name__}, 17 images (12 train, 5 val), 48 captions" in result.err
    expected = rows(tmp_path / "files.h5")
    assert len(expected) == 17
    assert len({embedding for _, _, embedding in expected.values()}) == 12  # those of val are drawn like 5 of train
    assert rows(tmp_path / "archive.h5") == expected
