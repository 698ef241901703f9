"""Datasets behind a URL, read as if they lay in a folder: `hf://`, `s3://`, `gs://`, `https://` and more, by fsspec.

Readers look at names, sizes and captions, hundreds of times each, and never at images. So a temporary folder, the
mirror, holds exactly that, and every reader reads it as any other folder. Files in it have the name and the size of the
original, but what no reader reads is a hole, which takes no space on most file systems:

    behind the URL                  in the mirror
    captions.json    81 MB          captions.json    81 MB, fetched once
    train/1.jpg     0.2 MB          train/1.jpg     0.2 MB, a hole
    0000.tar        900 MB          0000.tar        900 MB, a hole but for its headers and captions
    0000.parquet    400 MB          0000.parquet    400 MB, a hole but for its columns that are not binary

When an image is encoded, the store that its reader made (`data/stores/`) fetches its bytes through the mirror, in the
thread that loads it: a whole file, the part of a tar, or the row group of a table. They are never written to the disk.

Two other designs are simpler to describe and worse. If readers worked on remote paths, each look at a name would be a
request, and captions beside images would arrive one after the other. If the whole dataset were downloaded first, it
would have to fit on the disk, and encoding would wait for the last image. The mirror has a price: a tar travels twice,
once for the headers between its images; every file that may hold captions is fetched, needed or not; and an image that
is a file of its own costs an inode, so that a million of them are better kept in tars.

Credentials come from where the package of a protocol looks for them, such as the environment. Those in a URL itself,
before `@` or after `?`, appear in no message and in no cache.
"""

import re
from typing import TypeGuard


def is_url(source: object) -> TypeGuard[str]:
    """Return whether a source is text that names a place by a protocol, such as `s3://bucket/coco`."""
    return isinstance(source, str) and "://" in source and re.match(r"[A-Za-z][\w+.-]*:[/:]", source) is not None
