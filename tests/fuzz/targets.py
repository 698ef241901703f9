"""The parsers that are fuzzed: for each, small files that our own writers or the usual libraries make, and its readers.

Heavy libraries are imported where they are used, so that a process loads only those of its parser.
"""

import contextlib
import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from small_world import CAPTIONS, make_tar

_ARCHIVE = Path(__file__).parents[1] / "archives" / "format-2"
_FIRST_FORMAT = Path(__file__).parents[1] / "archives" / "format-1"
_NAMES = ("a.jpg", "b.jpg", "sub/c.png")


@dataclass(frozen=True)
class Seed:
    """Valid files.

    Attributes:
        path: what the readers are given: a file, or a folder.
        changed: the files of which one is changed.
    """

    path: Path
    changed: Sequence[Path]


@dataclass(frozen=True)
class Target:
    """A parser.

    Attributes:
        seeds: makes the seeds below a folder that exists.
        readers: what reads a seed's path, through the functions of the library that the commands call.
        named: whether an error must name the path or the changed file. Images are named by the caller.
        memory: GiB that reading may take.
    """

    seeds: Callable[[Path], list[Seed]]
    readers: Sequence[Callable[[Path], object]]
    named: bool = True
    memory: float = 4


# Images.


def _image_seeds(folder: Path) -> list[Seed]:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (40, 27), (200, 90, 30))
    ImageDraw.Draw(image).ellipse((3, 5, 30, 22), fill=(20, 120, 220))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation
    formats: list[tuple[str, str, dict[str, Any]]] = [
        ("jpg", "RGB", {"exif": exif}), ("progressive.jpg", "RGB", {"progressive": True, "icc_profile": b"x" * 99}),
        ("cmyk.jpg", "CMYK", {}), ("png", "RGB", {}), ("p.png", "P", {"transparency": 3}), ("la.png", "LA", {}),
        ("i16.png", "I;16", {}), ("1.png", "1", {}), ("gif", "P", {"save_all": True, "append_images": [image] * 2}),
        ("bmp", "RGB", {}), ("rle.tga", "P", {"compression": "tga_rle"}), ("tga", "RGBA", {}),
        ("tif", "RGB", {}), ("lzw.tif", "RGB", {"compression": "tiff_lzw"}), ("g4.tif", "1", {"compression": "group4"}),
        ("jpeg.tif", "RGB", {"compression": "jpeg"}), ("float.tif", "F", {}), ("zip.tif", "I;16",
        {"compression": "tiff_adobe_deflate"}),
        ("webp", "RGB", {}), ("lossless.webp", "RGBA", {"lossless": True}), ("jp2", "RGB", {}), ("ppm", "RGB", {}),
        ("pgm", "L", {}), ("pcx", "P", {}), ("ico", "RGBA", {"sizes": [(16, 16)]}), ("icns", "RGBA", {}),
        ("sgi", "RGB", {}), ("dds", "RGBA", {}), ("xbm", "1", {}), ("im", "RGB", {}), ("msp", "1", {}),
        ("avif", "RGB", {}), ("qoi", "RGB", {}), ("spi", "F", {}), ("dib", "RGB", {}),
    ]  # fmt: skip
    seeds = []
    for name, mode, options in formats:
        path = folder / f"image.{name}"
        kind = {"spi": "SPIDER"}.get(name)
        try:
            converted = image.convert("L").convert(mode) if mode in ("I;16", "F") else image.convert(mode)
            converted.save(path, format=kind, **options)
        except (OSError, ValueError, KeyError):  # this build of Pillow does not write it
            path.unlink(missing_ok=True)
            continue
        seeds.append(Seed(path, [path]))
    for name in ("dcx", "psd"):
        path = folder / f"image.{name}"
        path.write_bytes(_dcx(folder) if name == "dcx" else _PSD)
        seeds.append(Seed(path, [path]))
    return seeds


def _dcx(folder: Path) -> bytes:
    return b"\xb1\x68\xde\x3a" + (12).to_bytes(4, "little") + bytes(4) + (folder / "image.pcx").read_bytes()


# 4 x 3 pixels, RGB, not compressed: header, no colours, no resources, no layers, compression 0, three planes.
_PSD = b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\3\0\0\0\4\0\x08\0\3" + bytes(12) + b"\0\0" + bytes(range(36))


def _open_image(path: Path) -> object:
    from clipcap.precompute.images import open_image

    return open_image(path)


# Datasets.


def _understand(path: Path) -> object:
    from clipcap.data.errors import ImageError
    from clipcap.precompute.dataset import understand

    source = understand(path)
    for record in source.records[:3] if source.embedding is None else ():
        with contextlib.suppress(ImageError):  # recorded as a failure of this image
            source.images.stamp(record.path)
            source.images.read(record.path)
    return source.sha256(), source.outside


def _folder(folder: Path, name: str, files: "dict[str, str | bytes]", images: str = "") -> Seed:
    """Write a dataset: text files that are changed, and empty images."""
    root = folder / name
    for file, content in files.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(content.encode() if isinstance(content, str) else content)
    for image in _NAMES:
        (root / images / image).parent.mkdir(parents=True, exist_ok=True)
        (root / images / image).write_bytes(b"image")
    return Seed(root, [root / file for file in files])


def _text_seeds(folder: Path) -> list[Seed]:
    pairs = [(name, text) for name in _NAMES for text in CAPTIONS[:2]]
    table = io.StringIO()
    csv.writer(table).writerows([("image", "caption"), *pairs])
    flickr30k = [f"{name}| {number}| {text}" for number, (name, text) in enumerate(pairs)]
    return [
        _folder(folder, "flickr30k", {"results.csv": "image_name| comment_number| comment\n" + "\n".join(flickr30k)}),
        _folder(folder, "flickr8k", {"captions.txt": table.getvalue()}),
        _folder(folder, "tokens", {
            "Flickr8k.token.txt": "".join(f"{name}#{i}\t{text}\n" for i, (name, text) in enumerate(pairs)),
            "Flickr_8k.trainImages.txt": "a.jpg\n",
        }, "Images"),
        _folder(folder, "csv", {"captions.csv": table.getvalue()}),
        _folder(folder, "tsv", {"captions.tsv": "".join(f"{text}\t{name}\n" for name, text in [("image", "caption"),
        *pairs])}),
        _folder(folder, "gcc", {"train.tsv": "".join(f"{text}\thttp://x.org/{name}\n" for name, text in pairs)}),
        _folder(folder, "sidecar", {"a.txt": "a dog\na cat\n", "b.txt": "a bird"}),
    ]  # fmt: skip


def _json_seeds(folder: Path) -> list[Seed]:
    images = [{"id": i, "file_name": name} for i, name in enumerate(_NAMES)]
    annotations = [{"id": i, "image_id": i % 3, "caption": text} for i, text in enumerate(CAPTIONS)]
    karpathy = [
        {"filename": name, "filepath": "val2014", "split": split, "imgid": i, "cocoid": i, "sentids": [i],
         "sentences": [{"raw": CAPTIONS[i], "tokens": ["a"], "imgid": i, "sentid": i}]}
        for i, (name, split) in enumerate(zip(_NAMES, ("restval", "val", "test"), strict=True))
    ]  # fmt: skip
    flat = [{"image": name, "caption": text} for name, text in zip(_NAMES, CAPTIONS, strict=False)]
    named = [{"image_id": i, "caption": text} for i, text in enumerate(CAPTIONS[:3])]
    lines = [{"file_name": name, "text": text} for name, text in zip(_NAMES, CAPTIONS, strict=False)]
    return [
        _folder(folder, "coco", {
            "annotations/captions_train2017.json": json.dumps({"images": images, "annotations": annotations,
            "info": {"a": [1]}})
        }, "train2017"),
        _folder(folder, "karpathy", {"dataset_coco.json": json.dumps({"images": karpathy, "dataset": "coco"})},
        "val2014"),
        _folder(folder, "flat", {"coco_karpathy_train.json": json.dumps(flat)}),
        _folder(folder, "ids", {"captions.json": json.dumps(named)}),
        _folder(folder, "lines", {"metadata.jsonl": "".join(json.dumps(line) + "\n" for line in lines)}),
    ]  # fmt: skip


def _tar_seeds(folder: Path) -> list[Seed]:
    import tarfile

    samples: dict[str, bytes] = {}
    for i, text in enumerate(CAPTIONS[:3]):
        samples[f"{i:09d}.jpg"] = b"image" * (40 * i)
        samples[f"{i:09d}.txt"] = text.encode()
        samples[f"{i:09d}.json"] = json.dumps({"caption": text, "key": str(i)}).encode()
    long = {f"{'d' * 120}/{name}": data for name, data in samples.items()}
    paths = [
        make_tar(folder / "pax" / "00000.tar", samples),
        make_tar(folder / "long" / "00000.tar", long),
        make_tar(folder / "gnu" / "00000.tar", long, tarfile.GNU_FORMAT),
        make_tar(folder / "ustar" / "00000.tar", samples, tarfile.USTAR_FORMAT),
    ]
    return [Seed(path.parent, [path]) for path in paths]


def _parquet_seeds(folder: Path) -> list[Seed]:
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    captions = list(CAPTIONS[:3])
    tables = {
        "structs": {"image": [{"bytes": b"image", "path": name} for name in _NAMES], "caption": captions},
        "paths": {"image_path": list(_NAMES), "caption": captions},
        "lists": {"file_name": list(_NAMES), "text": [captions] * 3, "split": ["train", "val", "test"]},
        "bytes": {"jpg": [b"image"] * 3, "caption": captions, "width": [1, 2, 3]},
    }  # fmt: skip
    seeds = []
    for number, (name, columns) in enumerate(tables.items()):
        seed = _folder(folder, name, {})
        path = folder / name / "00000.parquet"
        parquet.write_table(
            pa.table(columns), path, compression=("snappy", "zstd", "none", "gzip")[number], row_group_size=2
        )
        seeds.append(Seed(seed.path, [path]))
    retrieval = folder / "retrieval"
    (retrieval / "img_emb").mkdir(parents=True)
    (retrieval / "metadata").mkdir()
    np.save(retrieval / "img_emb" / "img_emb_0.npy", np.ones((3, 4), np.float16))
    path = retrieval / "metadata" / "metadata_0.parquet"
    parquet.write_table(pa.table({"caption": captions, "image_path": list(_NAMES)}), path)
    return [*seeds, Seed(retrieval, [path])]


# Rows.


def _row_seeds(folder: Path) -> list[Seed]:
    import numpy as np

    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.save(folder / "rows.npy", rows)
    np.save(folder / "half.npy", np.asfortranarray(rows.astype(np.float16)))
    np.savez(folder / "rows.npz", embeddings=rows, names=np.array(_NAMES))
    np.savez_compressed(folder / "packed.npz", features=rows.astype(np.float64))
    paths = [folder / name for name in ("rows.npy", "half.npy", "rows.npz", "packed.npz")]
    return [Seed(path, [path]) for path in paths]


def _pickle_seeds(folder: Path) -> list[Seed]:
    import pickle  # writes the seeds

    import numpy as np

    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    captions = [{"image_id": str(i), "caption": text, "clip_embedding": i} for i, text in enumerate(CAPTIONS[:3])]
    contents: dict[str, Any] = {
        "rmokady": {"clip_embedding": rows, "captions": captions},
        "jmisilo": [(name, row[None], text) for name, row, text in zip(_NAMES, rows, CAPTIONS, strict=False)],
        "scalars": {"clip_embedding": rows.T.copy().T, "captions": [{**c, "clip_embedding": np.int64(i)} for i,
        c in enumerate(captions)]},
    }  # fmt: skip
    seeds = []
    for name, content in contents.items():
        for protocol in (0, 2, 5):
            path = folder / f"{name}{protocol}.pkl"
            path.write_bytes(pickle.dumps(content, protocol))
            seeds.append(Seed(path, [path]))
    return seeds


def _read_rows(path: Path) -> object:
    from clipcap.caption.row_files import read_rows

    return read_rows(path)


# Caches.


def _cache_seeds(folder: Path) -> list[Seed]:
    import numpy as np

    from clipcap.data.cache.fingerprint import Fingerprint
    from clipcap.data.cache.index import ShardEntry, write_index
    from clipcap.data.cache.shard import ShardTables, write_shard

    seeds = []
    for name, shape, scale in (("plain", (4,), 1.0), ("patches", (2, 4), 8.0)):
        root = folder / name
        root.mkdir()
        views = 1 if name == "plain" else 0
        fingerprint = Fingerprint.unchecked(
            encoder="unknown", width=4, features="patches" if views == 0 else "projected", tokenizer="demo",
            tokenizer_sha256="a" * 64, views=views,
        )  # fmt: skip
        entries = []
        for number in range(2):
            ids = [f"{number}{name}" for name in _NAMES]
            tables = ShardTables(
                embedding=np.linspace(-1, 1, 3 * int(np.prod(shape))).reshape(3, *shape).astype(np.float16),
                id=ids, path=list(_NAMES), split=np.array([0, 0, 1], np.uint8), first_caption=np.array([0, 2, 2, 4]),
                text=list(CAPTIONS[:4]), first_token=np.array([0, 3, 5, 6, 9]), token=np.arange(9, dtype=np.uint16),
                failure_path=["gone.jpg"], failure_reason=["there is no such file"],
                view=np.ones((2, *shape), np.float16) if views else None,
                first_view=np.array([0, 1, 2, 2]) if views else None,
                sum=np.ones((3, 16), np.uint8), file_size=np.ones(3, np.int64), file_time=np.ones(3, np.int64),
                scale=scale,
            )  # fmt: skip
            path = root / f"cache-{number:05d}.h5"
            content = write_shard(path, tables, fingerprint.to_json(), number)
            images, captions, tokens = tables.counts
            entries.append(ShardEntry(path=path, images=images, captions=captions, tokens=tokens, content=content))
        write_index(root / "cache.h5", fingerprint, entries)
        for pipe in ("fifo", "other.h5"):  # which links of mutants lead to
            os.mkfifo(root / pipe)
        shards = [entry.path for entry in entries]
        seeds += [Seed(root / "cache.h5", [root / "cache.h5", *shards]), Seed(shards[0], [shards[0]])]
    old = [Path(shutil.copy(file, folder)) for file in sorted(_FIRST_FORMAT.glob("*.h5"))]
    return [*seeds, Seed(folder / "cache.h5", old)]


def _inspect(path: Path) -> object:
    from clipcap.caption.inspect.describe import inspect

    return inspect(path), inspect(path, verify=True)


def _read_cache(path: Path) -> object:
    from clipcap.data.cache.index import Cache
    from clipcap.data.cache.shard import read_embeddings, read_views

    cache = Cache.open(path)
    for shard in cache.shards:
        read_embeddings(shard.path, 0, shard.images)
        if cache.fingerprint.views:
            read_views(shard.path, 0, shard.images)
    return sum(sum(tables.counts) for tables in cache.tables(embeddings=False))


def _check_shards(path: Path) -> object:
    from clipcap.data.cache.index import check_shards

    return list(check_shards(path))


def _read_cached_references(path: Path) -> object:
    from clipcap.caption.evaluate.references import read_references

    return read_references(path)


def _train_batches(path: Path) -> object:
    """Read the batches that training reads."""
    import numpy as np

    from clipcap.data.cache.index import Cache
    from clipcap.train.corpus.captions import load_corpora

    cache = Cache.open(path)
    for stream in (False, True):
        for corpus in load_corpora(cache, 20, stream=stream).values():
            batch = corpus.packed(np.arange(len(corpus.text)), 2)
            assert len(batch.target) == corpus.length.sum()
    return None


# Checkpoints, and the files of models.


def _checkpoint_seeds(folder: Path, *names: str) -> list[Seed]:
    shutil.copytree(_ARCHIVE / "checkpoint", folder / "checkpoint")
    return [Seed(folder / "checkpoint", [folder / "checkpoint" / name for name in names])]


def _config_seeds(folder: Path) -> list[Seed]:
    return _checkpoint_seeds(folder, "config.json")


def _safetensors_seeds(folder: Path) -> list[Seed]:
    return _checkpoint_seeds(folder, "model.safetensors")


def _tokenizer_seeds(folder: Path) -> list[Seed]:
    whole, parts = folder / "tokenizer", folder / "parts"
    shutil.copytree(_ARCHIVE / "checkpoint" / "tokenizer", whole)
    model = json.loads((whole / "tokenizer.json").read_text())["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    parts.mkdir()
    (parts / "vocab.json").write_text(json.dumps(model["vocab"]))
    (parts / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return [
        Seed(whole, [whole / "tokenizer.json", whole / "tokenizer.json", whole / "tokenizer_config.json"]),
        Seed(parts, [parts / "vocab.json", parts / "merges.txt"]),
    ]


def _foreign_seeds(folder: Path) -> list[Seed]:
    import pickle  # writes a seed

    import torch

    from clipcap.train.foreign.rmokady import export
    from clipcap.train.model.checkpoint import load_checkpoint

    model, _, config = load_checkpoint(_ARCHIVE / "checkpoint")
    state = export(model.state_dict(), config.mapper)
    torch.save(state, folder / "weights.pt")
    torch.save(state, folder / "weights.pkl", _use_new_zipfile_serialization=False)
    rows = {"clip_embedding": torch.ones(3, 4), "captions": [{"image_id": "1", "caption": "a", "clip_embedding": 0}]}
    (folder / "rows.pkl").write_bytes(pickle.dumps(rows))
    return [Seed(folder / name, [folder / name]) for name in ("weights.pt", "weights.pkl", "rows.pkl")]


def _caption_rows(path: Path) -> object:
    """Open a checkpoint and caption an embedding."""
    import numpy as np

    from clipcap.caption import Captioner

    captioner = Captioner.from_checkpoint(path, device="cpu", precision="fp32")
    width, patches = captioner.config.mapper.embedding_width, captioner.config.mapper.patches
    return captioner(np.ones((1, patches, width) if patches else (1, width), np.float32), max_tokens=3)


def _open_foreign(path: Path) -> object:
    from clipcap.train.foreign import load_foreign

    if path.name == "rows.pkl":
        return _understand(path)
    return load_foreign(path, tokenizer=str(_ARCHIVE / "checkpoint" / "tokenizer"), heads=2)


def _encode(path: Path) -> object:
    from clipcap.data.pretrained.tokenizer import encode_captions, load_tokenizer, tokenizer_sha256

    tokenizer = load_tokenizer(str(path))
    tokens = encode_captions(tokenizer, [*CAPTIONS, "", "\u202e e\u0301 \U0001f600"])
    return [tokenizer.decode(caption) for caption in tokens], tokenizer_sha256(tokenizer)


# Options and captions.


def _option_seeds(folder: Path) -> list[Seed]:
    options = {"epochs": 3, "lr": 1e-4, "mapper": "mlp", "overwrite": True, "prefix-length": 10, "preset": "clipcap"}
    (folder / "options.json").write_text(json.dumps(options))
    (folder / "options.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in options.items()))
    return [Seed(folder / name, [folder / name]) for name in ("options.json", "options.toml")]


def _read_options(path: Path) -> object:
    from clipcap.data.command.config import read_config_file

    names = ("epochs", "lr", "mapper", "overwrite", "prefix_length", "preset")
    return read_config_file(path, {name: name for name in names})


def _caption_seeds(folder: Path) -> list[Seed]:
    texts = list(CAPTIONS[:3])
    entries = [{"image_id": i, "caption": text} for i, text in enumerate(texts)]
    lines = [{"input": name, "captions": [text, text]} for name, text in zip(_NAMES, texts, strict=True)]
    contents = {
        "coco.json": json.dumps(entries),
        "captions.jsonl": "".join(json.dumps(line) + "\n" for line in lines),
        "captions.csv": "input,caption\n" + "".join(f'{name},"{text}"\n' for name, text in zip(_NAMES, texts,
        strict=True)),
        "mapping.json": json.dumps({name: [text] for name, text in zip(_NAMES, texts, strict=True)}),
    }  # fmt: skip
    for name, content in contents.items():
        (folder / name).write_text(content)
    return [Seed(folder / name, [folder / name]) for name in contents]


def _read_predictions(path: Path) -> object:
    from clipcap.caption.evaluate.predictions import read_predictions

    return read_predictions(path)


def _read_references(path: Path) -> object:
    from clipcap.caption.evaluate.references import read_references

    return read_references(path) if path.name == "mapping.json" else None


TARGETS = {
    "image": Target(_image_seeds, [_open_image], named=False, memory=6),
    "text": Target(_text_seeds, [_understand]),
    "json": Target(_json_seeds, [_understand]),
    "tar": Target(_tar_seeds, [_understand]),
    "parquet": Target(_parquet_seeds, [_understand]),
    "rows": Target(_row_seeds, [_understand, _read_rows]),
    "pickle": Target(_pickle_seeds, [_understand, _read_rows]),
    "captions": Target(_caption_seeds, [_read_predictions, _read_references]),
    "options": Target(_option_seeds, [_read_options]),
    "hdf5": Target(_cache_seeds, [_inspect, _read_cache, _check_shards, _read_cached_references]),
    "batches": Target(_cache_seeds, [_train_batches]),
    "config": Target(_config_seeds, [_caption_rows]),
    "safetensors": Target(_safetensors_seeds, [_caption_rows]),
    "foreign": Target(_foreign_seeds, [_open_foreign]),
    "tokenizer": Target(_tokenizer_seeds, [_encode]),
}
