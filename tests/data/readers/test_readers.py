"""All readers make the same source from the same images and captions, whatever the format."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from clipcap.data.errors import SourceError, UsageError
from clipcap.data.readers import READERS, Columns, read_source
from clipcap.data.records import Source

# The content of each dataset below, as far as its format can express it.
CAPTIONS = {
    "a.jpg": ["A dog, on grass.", "um cão na relva"],
    "b.jpg": ['She said "hi".'],
    "c.jpg": ["three | four"],
    "gone.jpg": ["never seen"],
}
SPLITS = {"a.jpg": "train", "b.jpg": "val", "c.jpg": "test", "gone.jpg": "train"}
ROWS = [(name, text) for name, texts in CAPTIONS.items() for text in texts]


def make_images(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or ("a.jpg", "b.jpg", "c.jpg", "extra.jpg"):
        (folder / name).write_bytes(b"")


def karpathy(folder: Path) -> None:
    splits = {"train": "restval", "val": "val", "test": "test"}
    images = [
        {
            "filename": name,
            "filepath": "val2014",
            "split": splits[SPLITS[name]],
            "sentences": [{"raw": t} for t in texts],
        }
        for name, texts in CAPTIONS.items()
    ]
    (folder / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    make_images(folder / "val2014")


def flickr8k(folder: Path) -> None:
    count: dict[str, int] = {}
    lines = []
    for name, text in ROWS:
        lines.append(f"{name}#{count.setdefault(name, 0)}\t{text}")
        count[name] += 1
    # Published files have both kinds of line ends.
    (folder / "Flickr8k.token.txt").write_bytes("\r\n".join(lines).encode())
    for split, file in (("train", "train"), ("val", "dev"), ("test", "test")):
        names = [name for name in CAPTIONS if SPLITS[name] == split]
        (folder / f"Flickr_8k.{file}Images.txt").write_bytes("".join(f"{name}\r\n" for name in names).encode())
    make_images(folder / "Images")


def flickr30k(folder: Path) -> None:
    lines = ["image_name| comment_number| comment", *(f"{name}| 0| {text}" for name, text in ROWS)]
    (folder / "results.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    make_images(folder / "flickr30k_images")


def flat_lahdhirim(folder: Path) -> None:
    (folder / "captions.json").write_text(json.dumps([{"image": name, "caption": text} for name, text in ROWS]))
    make_images(folder / "images")


def table_csv(folder: Path) -> None:
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "split", "caption"])
        writer.writerows((name, SPLITS[name], text) for name, text in ROWS)
    make_images(folder)


def table_open_clip(folder: Path) -> None:
    lines = ["filepath\ttitle", *(f"{name}\t{text}" for name, text in ROWS)]
    (folder / "train.tsv").write_text("\n".join(lines).replace('"', '""').replace("She", '"She').replace('"".', '""."'))
    make_images(folder)


def table_hugging_face(folder: Path) -> None:
    lines = [json.dumps({"file_name": name, "text": texts, "split": SPLITS[name]}) for name, texts in CAPTIONS.items()]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    make_images(folder)


def table_kaggle(folder: Path) -> None:
    lines = ["image,caption", *(f"{name},{text}" for name, text in ROWS)]  # commas in captions are not quoted there
    (folder / "captions.txt").write_text("\r\n".join(lines), encoding="utf-8", newline="")
    make_images(folder / "Images")


def sidecar(folder: Path) -> None:
    for name, texts in CAPTIONS.items():
        if name != "gone.jpg":
            make_images(folder / SPLITS[name], name)
            (folder / SPLITS[name] / name).with_suffix(".txt").write_text("\n".join(texts) + "\n\n", encoding="utf-8")
    make_images(folder, "extra.jpg")


@pytest.mark.parametrize(
    ("format_name", "make", "splits", "missing"),
    [
        ("karpathy", karpathy, True, ["val2014/gone.jpg"]),
        ("flickr8k", flickr8k, True, ["gone.jpg"]),
        ("flickr30k", flickr30k, False, ["gone.jpg"]),
        ("flat", flat_lahdhirim, False, ["gone.jpg"]),
        ("table", table_csv, True, ["gone.jpg"]),
        ("table", table_open_clip, False, ["gone.jpg"]),
        ("table", table_hugging_face, True, ["gone.jpg"]),
        ("table", table_kaggle, False, ["gone.jpg"]),
        ("sidecar", sidecar, True, []),
    ],
)
def test_the_same_dataset_is_read_from_every_format(
    tmp_path: Path, format_name: str, make: Callable[[Path], None], splits: bool, missing: list[str]
) -> None:
    make(tmp_path)
    source = read_source(tmp_path)
    assert source.format == format_name
    assert read_source(tmp_path, format_name) == source
    assert source.root == tmp_path
    found = {Path(record.path).name: record for record in source.records}
    expected = {name: texts for name, texts in CAPTIONS.items() if missing or name != "gone.jpg"}
    assert {name: list(record.captions) for name, record in found.items()} == expected
    if format_name != "sidecar":  # its order is that of the names
        assert list(found) == list(expected)  # in the order of the file
    for name, record in found.items():
        assert record.split == (SPLITS[name] if splits else None)
        assert (tmp_path / record.path).is_file() == (name != "gone.jpg")
        assert record.path in (record.id, record.path)
    assert source.missing == missing
    assert [Path(path).name for path in source.unlisted] == ["extra.jpg"]
    assert len({record.id for record in source.records}) == len(source.records)
    behind_url = read_source(in_memory(tmp_path))
    assert replace(behind_url, root=tmp_path, store=None) == source


def in_memory(folder: Path) -> str:
    """Copy a folder to a store in memory, and return its URL."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.put(f"{folder}/", "/dataset/", recursive=True)
    return "memory://dataset"


def test_every_reader_is_tested() -> None:
    images_and_captions = {"coco", "karpathy", "flickr8k", "flickr30k", "flat", "table", "sidecar", "folder"}
    archives = {"webdataset", "parquet"}  # test_webdataset.py, test_parquet.py
    embeddings = {"clipcap-pickle", "clipxgpt-pickle", "clip-retrieval", "arrays"}  # tests/precompute/test_imported.py
    assert set(READERS) == images_and_captions | archives | embeddings
    assert all(reader.expected_layout for reader in READERS.values())


def read(folder: Path, name: str, text: str, **options: str) -> Source:
    (folder / name).write_text(text, encoding="utf-8")
    return read_source(folder, columns=Columns(**options))


def test_a_folder_of_images_is_read_without_captions(tmp_path: Path) -> None:
    make_images(tmp_path / "2024/summer", "b.PNG", "a.jpeg")
    make_images(tmp_path / "test", "c.webp")
    (tmp_path / "notes.md").write_text("x")
    (tmp_path / ".hidden").mkdir()
    make_images(tmp_path / ".hidden", "no.jpg")
    source = read_source(tmp_path)
    assert source.format == "folder"
    paths = [(record.path, record.split, record.captions) for record in source.records]
    assert paths == [("2024/summer/a.jpeg", None, ()), ("2024/summer/b.PNG", None, ()), ("test/c.webp", "test", ())]
    (note,) = source.notes
    assert note.startswith("no captions")


def test_the_flat_list_of_rmokady_names_images_by_their_coco_number(tmp_path: Path) -> None:
    make_images(tmp_path / "train2014", "COCO_train2014_000000522418.jpg")
    make_images(tmp_path / "val2014", "COCO_val2014_000000000042.jpg")
    rows = [{"image_id": "522418", "id": 0, "caption": "x"}, {"image_id": 42, "id": 1, "caption": "y"}]
    source = read(tmp_path, "train_caption.json", json.dumps(rows))
    assert [record.path for record in source.records] == [
        "train2014/COCO_train2014_000000522418.jpg",
        "val2014/COCO_val2014_000000000042.jpg",
    ]


def test_a_row_of_flickr30k_without_its_second_bar_is_kept_and_noted(tmp_path: Path) -> None:
    make_images(tmp_path, "1.jpg")
    text = "image_name| comment_number| comment\n1.jpg| 3| one\n1.jpg| 4   A dog runs .\n1.jpg and nothing\n"
    source = read(tmp_path, "results.csv", text)
    assert source.records[0].captions == ("one", "A dog runs .")
    assert [note.split(" was ")[0] for note in source.notes] == ["results.csv line 3", "results.csv line 4"]
    assert source.notes[1].endswith("'1.jpg and nothing'")


def test_conceptual_captions_are_matched_with_local_files(tmp_path: Path) -> None:
    make_images(tmp_path / "train", "00000000.jpg", "cat%20one.jpg".replace("%20", " "))
    text = "a dog\thttp://x.org/1/dog.jpg?w=3\na cat\thttps://y.org/cat%20one.jpg\nno file\thttp://z.org/z.jpg\n"
    source = read(tmp_path, "Train_GCC-training.tsv", text)
    assert [(record.path, record.captions) for record in source.records] == [
        ("train/00000000.jpg", ("a dog",)),
        ("train/cat one.jpg", ("a cat",)),
        ("00000002.jpg", ("no file",)),
    ]
    assert source.missing == ["00000002.jpg"]


def test_columns_are_guessed_noted_and_can_be_named(tmp_path: Path) -> None:
    make_images(tmp_path, "a.jpg")
    text = "Photo;Alt;Caption\na.jpg;alternative;guessed\n"
    with pytest.raises(SourceError, match=r"`image_column`.*: Photo, Alt, Caption"):
        read(tmp_path, "t.csv", text)
    source = read(tmp_path, "t.csv", text, image="Photo")
    assert source.records[0].captions == ("guessed",)
    assert source.notes == ["t.csv: images from column 'Photo', captions from column 'Caption'"]
    assert read(tmp_path, "t.csv", text, image="Photo", caption="Alt").records[0].captions == ("alternative",)
    with pytest.raises(SourceError, match=r"'alt'.*: Photo, Alt, Caption"):
        read(tmp_path, "t.csv", text, image="Photo", caption="alt")
    with pytest.raises(UsageError, match="format folder"):
        read_source(tmp_path, "folder", Columns(image="x"))


def test_images_are_found_by_path_then_by_end_of_path_then_by_name(tmp_path: Path) -> None:
    make_images(tmp_path / "x/train", "1.jpg")
    make_images(tmp_path / "x/val", "1.jpg", "2.jpg")
    rows = [
        "x/val/1.jpg",
        "train/1.jpg",
        "2.jpg",
        "elsewhere\\2.jpg",
        str(tmp_path / "x/train/1.jpg"),
        "1.jpg",
        "./x/val/1.jpg",
    ]
    source = read(tmp_path, "t.csv", "path,caption\n" + "".join(f"{name},c\n" for name in rows))
    assert [(record.path, record.captions) for record in source.records] == [
        ("x/val/1.jpg", ("c", "c")),
        ("x/train/1.jpg", ("c", "c")),
        ("x/val/2.jpg", ("c", "c")),
        ("1.jpg", ("c",)),
    ]
    assert source.missing == ["1.jpg"]  # two images have that name


@pytest.mark.parametrize(
    ("name", "text", "fact"),
    [
        ("t.jsonl", '{"file_name": "a.jpg", "text": "x"}\nno json\n', "t.jsonl line 2 "),
        ("t.jsonl", '{"file_name": "a.jpg", "text": "x"}\n[1]\n', "t.jsonl line 2 is not an object but '[1]'"),
        ("t.jsonl", '{"file_name": "a.jpg", "text": 3}\n', "t.jsonl line 1 has a caption that is not text: 3"),
        ("t.csv", "image,caption,split\na.jpg,x,holdout\n", "t.csv line 2 has the split 'holdout'"),
        ("t.csv", "image,caption,split\na.jpg,x,val\na.jpg,y,train\n", "a.jpg is in two splits, val and train"),
        ("c.json", '[{"image": "a.jpg", "caption": 5}]', "c.json "),
        ("c.json", '[{"caption": "x"}]', "c.json "),
        ("dataset_coco.json", '{"images": [{"filename": "a.jpg"}]}', "dataset_coco.json "),
    ],
)
def test_the_error_for_a_broken_file_names_the_place(tmp_path: Path, name: str, text: str, fact: str) -> None:
    make_images(tmp_path, "a.jpg")
    with pytest.raises(SourceError) as caught:
        read(tmp_path, name, text)
    assert fact in str(caught.value)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Flickr8k.token.txt", "a.jpg#0\tA dog{}runs\nb.jpg#0\tA cat\n"),
        ("results.csv", "image_name| comment_number| comment\na.jpg| 0| A dog{}runs\nb.jpg| 0| A cat\n"),
        ("a.txt", "A dog{}runs\n"),
    ],
)
def test_lines_end_at_newlines_alone(tmp_path: Path, name: str, text: str, separator: str) -> None:
    make_images(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / name).write_bytes(text.format(separator).encode())
    source = read_source(tmp_path)
    assert source.records[0].captions == (f"A dog{separator}runs",)
    assert source.captions() == (1 if name == "a.txt" else 2)


def test_the_split_lists_of_flickr8k_hold_a_name_a_line(tmp_path: Path) -> None:
    make_images(tmp_path, "a b.jpg", "c.jpg")
    (tmp_path / "Flickr8k.token.txt").write_text("a b.jpg#0\tA dog\nc.jpg#0\tA cat\n")
    (tmp_path / "Flickr_8k.devImages.txt").write_text("a b.jpg\n")
    (tmp_path / "Flickr_8k.trainImages.txt").write_text("c.jpg \n\n")
    assert read_source(tmp_path).counts() == {"train": 1, "val": 1}


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    make_images(tmp_path, "a.jpg")
    (tmp_path / "t.csv").write_bytes("image,caption\na.jpg,caf\xe9\n".encode("latin-1"))
    with pytest.raises(SourceError, match=r"t\.csv is not UTF-8 .*byte 23 is 0xe9"):
        read_source(tmp_path)


def test_the_real_flickr8k_sample_is_read(shared: Path) -> None:
    source = read_source(shared / "data/flickr8k")
    assert source.format == "flickr8k"
    assert source.counts() == {"train": 1000, "val": 250, "test": 250}
    assert source.captions() == 7500
    assert source.missing == source.unlisted == []


def test_the_real_flickr30k_file_is_read(shared: Path) -> None:
    source = read_source(shared / "data/formats/flickr30k-results-csv/results.BUILT.csv")
    assert source.format == "flickr30k"
    assert source.captions() == 10_001
    (note,) = source.notes
    assert note.startswith("results.BUILT.csv line 10002 ")
    (record,) = [record for record in source.records if record.path == "2199200615.jpg"]
    assert record.captions[-1] == "A dog runs across the grass ."


def test_portuguese_captions_are_read_unchanged(shared: Path) -> None:
    file = shared / "data/annotations/captions_val2014.karpathy5k.pt-BR.json"
    source = read_source(file)
    assert source.format == "coco"
    expected = [entry["caption"] for entry in json.loads(file.read_text(encoding="utf-8"))["annotations"]]
    assert sorted(text for record in source.records for text in record.captions) == sorted(expected)
    assert any("ã" in text for text in expected)


def test_the_real_conceptual_captions_file_is_read(shared: Path) -> None:
    source = read_source(shared / "data/formats/gcc_head300.tsv")
    assert source.format == "table"
    assert len(source.records) == source.captions() == 300
