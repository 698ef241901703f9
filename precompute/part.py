"""A part of the shards of a cache, so that several processes or machines make one cache together.

    clipcap-precompute coco/ -o shared/coco.h5 --part 1/2      shards 0, 2, 4, ...
    clipcap-precompute coco/ -o shared/coco.h5 --part 2/2      shards 1, 3, 5, ...

They need not know of each other: a shard is the same whoever makes it, and whoever ends last writes the index.
"""

import re
from dataclasses import dataclass

from clipcap.data.errors import UsageError


@dataclass(frozen=True)
class Part:
    """Every `count`-th shard.

    Attributes:
        number: of the part, from 1 to `count`.
        count: of all parts.

    Raises:
        UsageError: there is no such part.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise UsageError(f"`part` {self} does not exist; give one from 1/{self.count} to {self.count}/{self.count}")

    @classmethod
    def of(cls, text: str) -> "Part":
        """Read a part as people write it, such as `1/4`.

        Raises:
            UsageError: the text is no part.
        """
        found = re.fullmatch(r"(\d+)/([1-9]\d*)", text)
        if found is None:
            raise UsageError(f"`part` {text} is not a part; give its number and how many there are, such as 1/4")
        return cls(int(found[1]), int(found[2]))

    def has(self, shard: int) -> bool:
        """Return whether this part makes the shard of a number from 0."""
        return shard % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


WHOLE = Part(1, 1)
