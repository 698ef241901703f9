"""Checks single rows of embeddings: not finite, zero, constant, or equal to the row of another image."""

from collections.abc import Iterator

import numpy as np

from clipcap.caption.inspect.doctor.content import CacheContent, Pairs
from clipcap.caption.inspect.doctor.finding import Facts, Finding, first_examples
from clipcap.data.command.progress import plural

BLOCK_ROWS = 2  # equal rows one after the other that count as a copied block; images repeat by chance one at a time


def check_rows(content: CacheContent, facts: Facts) -> Iterator[Finding]:
    """Find rows that say nothing about their image: any number not finite, all numbers 0, or all numbers alike."""
    kinds = {
        "not_finite": (
            ~content.finite,
            "hold numbers that are not finite (NaN or infinity)",
            "an encoder in half precision that overflowed, or a program that wrote float16 without a check",
        ),
        "zero": (
            content.zero,
            "are zero",
            "an array that was allocated for all images and not filled, because images could not be read",
        ),
        "constant": (
            content.constant,
            "hold one number many times",
            "a placeholder for images that could not be read, or an encoder whose weights were not loaded",
        ),
    }
    for check, (found, what, cause) in kinds.items():
        rows = np.flatnonzero(found)
        if len(rows):
            yield Finding(
                check=check,
                count=len(rows),
                total=len(content),
                message=f"{len(rows):,} of {plural(len(content), 'row')} {what}",
                cause=cause,
                fix=content.command(),
                examples=first_examples(content.names(rows)),
            )


def check_repeated(content: CacheContent, facts: Facts) -> Iterator[Finding]:
    """Find rows that equal the row of another image. An image that is in two splits is left to `check_leaks`."""
    pairs = content.equal_rows
    blocks = copied_blocks(pairs)
    in_blocks = {row for first, _, rows in blocks for row in range(first, first + rows)}
    alone = [(a, b) for a, b in pairs if b not in in_blocks and content.split[a] == content.split[b]]
    count = len(in_blocks) + len(alone)
    if not count:
        return
    examples = [
        f"rows {first}-{first + rows - 1} equal rows {other}-{other + rows - 1}, from {content.path[first]} and "
        f"{content.path[other]} on"
        for first, other, rows in blocks
    ]
    examples += [f"{content.name(b)} equals {content.name(a)}" for a, b in alone]
    message = f"{count:,} of {plural(len(content), 'row')} equal the row of another image"
    if blocks:
        first, other, rows = blocks[0]
        message += f", {plural(len(blocks), 'block')} of rows among them: {rows:,} rows from row {first} on "
        message += f"equal those from row {other} on"
    yield Finding(
        check="repeated",
        count=count,
        total=len(content),
        message=message,
        cause="a part of the embeddings that was written twice, as by a job that was started again"
        if blocks
        else "the same image under two names, or a row for each caption instead of each image",
        fix=content.command("" if blocks else "remove the copies from the dataset"),
        examples=first_examples(examples),
    )


def copied_blocks(pairs: Pairs) -> list[tuple[int, int, int]]:
    """Return the copied blocks as (row of the copy, row of the original, rows), longest first."""
    blocks: list[tuple[int, int, int]] = []
    start, length = (0, 0), 0
    for a, b in [*sorted(pairs, key=lambda pair: pair[1]), (-1, -1)]:
        if length and (a, b) == (start[0] + length, start[1] + length):
            length += 1
            continue
        if length >= BLOCK_ROWS:
            blocks.append((start[1], start[0], length))
        start, length = (a, b), 1
    return sorted(blocks, key=lambda block: -block[2])
