"""Writes small files that once crashed, hung or misled the program, or filled the memory: one for each kind.

    PYTHONPATH=tests python tests/archives/attacks/make.py FOLDER

The name of a file begins with the parser of tests/fuzz/targets.py that reads it. Files are committed, so that other
versions of the libraries cannot make them harmless.
"""

import io
import json
import pickletools
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.cache.index import ShardEntry, write_index
from clipcap.data.cache.shard import ShardTables, write_shard

_CHECKPOINT = Path(__file__).parents[1] / "format-2" / "checkpoint"


def nested_shared_lists() -> bytes:
    """A pickle of 48 lists, each of which holds the one before it twice: 2^48 paths."""
    return b"\x80\x02]q\0" + b"".join(b"]q%c(h%ch%ce" % (i + 1, i, i) for i in range(48)) + b"."


def huge_memo_index() -> bytes:
    """A pickle that stores a value under a number for which the reader would make a table of gigabytes."""
    return b"\x80\x02]r\xff\xff\xff\x7f."


def claimed_array() -> bytes:
    """A pickle whose array has a stride of 0 bytes: any shape fits into no memory."""
    content = (
        b"\x80\x02}(X\x0e\0\0\0clip_embeddingctorch._utils\n_rebuild_tensor_v2\n(ctorch.storage\n_load_from_bytes\n"
    )
    buffer = io.BytesIO()
    import torch

    torch.save(torch.zeros(1).storage(), buffer, _use_new_zipfile_serialization=False)
    data = buffer.getvalue()
    size = b"\x8a\5" + (1 << 34).to_bytes(5, "little")
    content += b"B" + struct.pack("<I", len(data)) + data + b"\x85RK\0" + size + b"K\1\x86K\0K\1\x86\x89"
    content += b"ccollections\nOrderedDict\n)RtRX\x08\0\0\0captions]u."
    pickletools.dis(content, io.StringIO())
    return content


def npz(offset: int, value: int) -> bytes:
    """An archive of rows, with a number of 16 bits that is changed in its central directory."""
    buffer = io.BytesIO()
    np.savez(buffer, embeddings=np.ones((2, 3), np.float32))
    data = bytearray(buffer.getvalue())
    at = data.index(b"PK\x01\x02") + offset
    data[at : at + 2] = struct.pack("<H", value)
    return bytes(data)


def npz_member(name: str, content: bytes) -> bytes:
    """An archive with one member."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def npy(shape: str, descr: str = "'<f4'") -> bytes:
    """An array of 16 bytes whose header claims a shape."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(16)


def tar_header(size: bytes, kind: bytes = b"0") -> bytes:
    """A tar of one member, whose header states a size."""
    header = bytearray(512)
    header[:9], header[100:108] = b"000000.jp", b"0000644\0"
    header[9:10], header[124:136], header[156:157] = b"g", size.ljust(12, b"\0"), kind
    header[257:265], header[148:156] = b"ustar\x0000", b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


def png(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""
    content = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + content + struct.pack(">I", zlib.crc32(content))


def jpeg_of_scans(scans: int) -> bytes:
    """A progressive JPEG with one scan many times."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    first = data.index(b"\xff\xda")
    second = data.index(b"\xff", first + 2)
    return data[:first] + data[first:second] * scans + data[second:]


def shard(folder: Path, change: Callable[[h5py.File], None], name: str) -> str:
    """Write a shard of two images, which is then changed, and return the hash of its content."""
    tables = ShardTables(
        embedding=np.ones((2, 4), np.float16), id=["a", "b"], path=["a.jpg", "b.jpg"], split=np.zeros(2, np.uint8),
        first_caption=np.array([0, 1, 2]), text=["a dog", "a cat"], first_token=np.array([0, 1, 2]),
        token=np.arange(2, dtype=np.uint16), failure_path=[], failure_reason=[],
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    content = write_shard(path, tables, _fingerprint().to_json(), 0)
    with h5py.File(path, "r+") as file:
        change(file)
    return content


def _fingerprint() -> Fingerprint:
    return Fingerprint.unchecked(encoder="unknown", width=4, tokenizer="demo", tokenizer_sha256="a" * 64)


def wrapped_offsets(file: h5py.File) -> None:
    """Offsets whose differences are positive only because they wrap around at 2^64."""
    file["images/first_caption"][...] = [0, 2**63 - 1, 2]


def external_group(file: h5py.File) -> None:
    """A group that is in another file."""
    del file["captions"]
    file["captions"] = h5py.ExternalLink("/dev/zero", "/captions")


def soft_group(file: h5py.File) -> None:
    """A group that is a link to a link to another file."""
    file["elsewhere"] = h5py.ExternalLink("gone.h5", "/")
    del file["captions"]
    file["captions"] = h5py.SoftLink("/elsewhere/captions")


def missing_chunks(file: h5py.File) -> None:
    """Rows that were never written, which HDF5 reads as zeros."""
    del file["images/embedding"]
    file.create_dataset("images/embedding", (2, 4), "<f2", chunks=(1, 4), fletcher32=True)


def claimed_offsets(file: h5py.File) -> None:
    """Offsets of 2^40 images in a file of some KB."""
    del file["images/first_caption"]
    file.create_dataset("images/first_caption", (1 << 40,), "<i8", chunks=(64,))


def no_width(file: h5py.File) -> None:
    """A fingerprint whose width is null."""
    fingerprint = {**json.loads(file.attrs["fingerprint"]), "width": None}
    file.attrs["fingerprint"] = np.bytes_(json.dumps(fingerprint).encode())


def listed_twice(folder: Path) -> None:
    """An index that lists one shard twice."""
    content = shard(folder, lambda file: None, "cache-00000.h5")
    entry = ShardEntry(path=folder / "cache-00000.h5", images=2, captions=2, tokens=2, content=content)
    write_index(folder / "cache.h5", _fingerprint(), [entry, entry])


def no_shards(folder: Path) -> None:
    """An index of nothing."""
    folder.mkdir()
    write_index(folder / "cache.h5", _fingerprint(), [])


def config(**changes: Any) -> str:
    """The config.json of a checkpoint whose GPT-2 has other sizes."""
    content = json.loads((_CHECKPOINT / "config.json").read_text())
    content["language_model"]["config"].update(changes)
    return json.dumps(content)


def mapper_config(**changes: Any) -> str:
    """The config.json of a checkpoint whose mapper has other sizes."""
    content = json.loads((_CHECKPOINT / "config.json").read_text())
    content["mapper"].update(changes)
    return json.dumps(content)


def tokenizer(**vocabulary: Any) -> str:
    """A tokenizer.json of few tokens."""
    model = {"type": "BPE", "vocab": {"a": 0, "<|endoftext|>": 1, **vocabulary}, "merges": []}
    special = {"id": 1, "content": "<|endoftext|>", "special": True, "single_word": False, "lstrip": False,
               "rstrip": False, "normalized": False}  # fmt: skip
    return json.dumps(
        {"version": "1.0", "added_tokens": [special], "pre_tokenizer": {"type": "ByteLevel"}, "model": model}
    )


_TOKENIZER_CONFIG = json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"})
_ROW = b'[{"image": "a.jpg", "caption": '

FILES: dict[str, Callable[[], bytes]] = {
    "pickle-nested-shared-lists.pkl": nested_shared_lists,
    "pickle-memo-index.pkl": huge_memo_index,
    "foreign-stride-0.pkl": claimed_array,
    "foreign-nested-shared-lists.pkl": nested_shared_lists,
    "rows-unknown-compression.npz": lambda: npz(10, 77),
    "rows-encrypted.npz": lambda: npz(8, 1),
    "rows-no-array.npz": lambda: npz_member("embeddings.npy", b"not an array"),
    "rows-shape-overflows.npy": lambda: npy(f"({1 << 62}, 4)"),
    "rows-shape-of-terabytes.npy": lambda: npy(f"({1 << 40}, 4)"),
    "rows-shape-unfinished.npy": lambda: npy("(2, ("),
    "rows-shape-empty.npy": lambda: npy("(0, 4)"),
    "json-deep.json": lambda: _ROW + b"[" * 3_000,
    "options-deep.json": lambda: b'{"epochs": ' + b"[" * 3_000,
    "options-deep.toml": lambda: b"epochs = " + b"[" * 3_000,
    "captions-deep.json": lambda: b"[" * 3_000,
    "captions-number.json": lambda: b"[1]",
    "text-few-columns.csv": lambda: b"image,caption\na.jpg\n",
    "tar-negative-size.tar": lambda: tar_header(b"\xff" * 12),
    "tar-size-beyond-the-end.tar": lambda: tar_header(b"77777777777"),
    "tar-size-of-terabytes-in-a-pax-header.tar": lambda: tar_header(b"\x80" + (1 << 42).to_bytes(11, "big"), b"x"),
    "tar-size-no-number.tar": lambda: tar_header(b"-1"),
    "image-eps.jpg": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(%pipe%id) (w) file\n",
    "image-3600-megapixels.png": lambda: png(60_000, 60_000),
    "image-many-scans.jpg": lambda: jpeg_of_scans(200),
}  # fmt: skip
SHARDS: dict[str, Callable[[h5py.File], None]] = {
    "batches-wrapped-offsets": wrapped_offsets,
    "hdf5-external-group": external_group,
    "hdf5-soft-group": soft_group,
    "hdf5-missing-chunks": missing_chunks,
    "hdf5-offsets-of-terabytes": claimed_offsets,
    "hdf5-width-null": no_width,
}
INDEXES: dict[str, Callable[[Path], None]] = {"hdf5-listed-twice": listed_twice, "hdf5-no-shards": no_shards}
CONFIGS: dict[str, Callable[[], str]] = {
    "config-layers": lambda: config(n_layer=10**9),
    "config-width": lambda: config(n_embd=2**70),
    "config-dropout": lambda: config(resid_pdrop=float("nan")),
    "config-eos-list": lambda: config(eos_token_id=[0]),
    "config-mapper-layers-list": lambda: mapper_config(layers=[1]),
    "config-mapper-prefix": lambda: mapper_config(prefix_length=10**9),
    "config-deep": lambda: '{"format": ' + "[" * 3_000,
}
TOKENIZERS: dict[str, Callable[[], str]] = {
    "tokenizer-id-2-to-31": lambda: tokenizer(b=2**31),
    "tokenizer-id-text": lambda: tokenizer(b="2"),
    "tokenizer-id-negative": lambda: tokenizer(b=-1),
    "tokenizer-deep": lambda: '{"model": ' + "[" * 3_000,
}


def main() -> None:
    """Write every file that is not there yet."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in FILES.items():
        if not (folder / name).exists():
            (folder / name).write_bytes(content())
    for name, change in SHARDS.items():
        if not (folder / f"{name}.h5").exists():
            shard(folder, change, f"{name}.h5")
    for name, index in INDEXES.items():
        if not (folder / name).exists():
            index(folder / name)
    for name, text in CONFIGS.items():
        _write(folder / name, {"config.json": text(), "tokenizer/tokenizer.json": "{}"})
    for name, text in TOKENIZERS.items():
        _write(folder / name, {"tokenizer.json": text(), "tokenizer_config.json": _TOKENIZER_CONFIG})


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
