"""A cache through random sequences of runs, crashes, faults of the disk, damage, repair and changes of its dataset.

After a run that ends well, the cache holds what the dataset holds, and nothing else. After any other run, each row that
was whole before is still there, unless its image left the dataset, and no run encodes an image that has a whole row.
"""

import functools
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from PIL import Image

from clipcap.data.cache.hdf5 import open_hdf5
from clipcap.data.cache.index import Cache, describe_shard, read_checked
from clipcap.data.cache.shard import ShardTables
from clipcap.data.errors import CacheError, ClipCapError, UsageError
from clipcap.data.image_store import FolderStore
from clipcap.precompute import PrecomputeSettings, finished, pipeline, start
from clipcap.precompute.encoders.base import Encoder
from clipcap.precompute.encoders.load import load_encoder
from clipcap.precompute.stamp import read_stamped
from faults import ERRORS, Faults
from small_world import CAPTIONS, Crash
from stateful import examples

BATCH, SHARD = 2, 3  # images in each
CHOICE = st.randoms(use_true_random=False)


@dataclass(frozen=True)
class Known:
    """What the dataset has of an image: its picture, by a number, and its caption."""

    picture: int
    caption: str


class World:
    """The settings of stage 1, its small encoder, and how many images went through it.

    Attributes:
        sums: the number of each picture that was drawn, by the sum of its file.
    """

    def __init__(self, settings: PrecomputeSettings, encoder: Encoder) -> None:
        self.settings, self.encoder, self.encoded = settings, encoder, 0
        self.sums: dict[bytes, int] = {}

    @functools.cache  # noqa: B019 (one world for all sequences)
    def picture(self, number: int) -> Image.Image:
        """Return an image of noise."""
        pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        return Image.fromarray(pixels).resize((32, 32), Image.Resampling.NEAREST)

    @functools.cache  # noqa: B019
    def embedding(self, number: int) -> Any:
        """Return the embedding of an image alone: float32 (d,)."""
        pixels = torch.from_numpy(np.array(self.encoder.transform(self.picture(number)), dtype=np.uint8))
        return self.encoder.encode(pixels[None])[0].float().numpy()


class CacheMachine(RuleBasedStateMachine):
    """The dataset as the cache should have it, and what happens to both."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.folder = Path(tempfile.mkdtemp())
        self.dataset, self.output = self.folder / "dataset", self.folder / "out" / "c.h5"
        self.images: dict[str, Known] = {}
        self.serial = 0
        self.is_damaged = False  # so that only `repair` finds it, or asks for it

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    # The dataset

    @initialize()
    def begin(self) -> None:
        self.dataset.mkdir()
        for _ in range(7):
            self.add()

    @rule()
    def add(self) -> None:
        self.serial += 1
        self._write(f"{self.serial:03}.png", Known(self.serial, CAPTIONS[self.serial % len(CAPTIONS)]))

    @rule(choice=CHOICE)
    def change(self, choice: Any) -> None:
        name = self._choose(choice)
        self.serial += 1
        self._write(name, replace(self.images[name], picture=self.serial))

    @rule(choice=CHOICE)
    def reword(self, choice: Any) -> None:
        name = self._choose(choice)
        self._write(name, replace(self.images[name], caption=choice.choice(CAPTIONS)))

    @rule(choice=CHOICE)
    def rename(self, choice: Any) -> None:
        name = self._choose(choice)
        self.serial += 1
        self._write(f"{self.serial:03}.png", self.images[name])
        self._remove(name)

    @precondition(lambda self: len(self.images) > 4)
    @rule(choice=CHOICE)
    def remove(self, choice: Any) -> None:
        self._remove(self._choose(choice))

    # The cache

    @rule()
    def run(self) -> None:
        self._run_well(repair=self.is_damaged)

    @rule()
    def repair(self) -> None:
        self._run_well(repair=True)

    @rule(at=st.integers(0, 25))
    def kill(self, at: int) -> None:
        self._run_badly(at, None, lasting=False)

    @rule(at=st.integers(0, 25), error=st.sampled_from(ERRORS), lasting=st.booleans())
    def fail(self, at: int, error: int, lasting: bool) -> None:
        self._run_badly(at, error, lasting=lasting)

    @precondition(lambda self: self._files())
    @rule(choice=CHOICE)
    def lose_a_file(self, choice: Any) -> None:
        choice.choice(self._files()).unlink()

    @precondition(lambda self: self._files())
    @rule(choice=CHOICE, size=st.sampled_from((0, 100, 2000)))
    def cut_a_file(self, choice: Any, size: int) -> None:
        path = choice.choice(self._files())
        os.truncate(path, min(size, path.stat().st_size))
        self.is_damaged = True  # an index that is damaged is replaced only when it is asked for

    @precondition(lambda self: self._whole())
    @rule(choice=CHOICE)
    def flip_a_bit_of_a_caption(self, choice: Any) -> None:
        path, tables = choice.choice(sorted(self._whole().items()))
        data = bytearray(path.read_bytes())
        data[data.index(choice.choice(tables.text).encode())] ^= 1
        path.write_bytes(data)
        self.is_damaged = True

    # What must be true

    @invariant()
    def whole_rows_are_those_of_their_images(self) -> None:
        for tables in self._whole().values():
            assert tables.sum is not None
            for row, known in zip(tables.embedding, tables.sum, strict=True):
                truth = self.world.embedding(self.world.sums[known.tobytes()])
                np.testing.assert_allclose(row.astype(np.float32), truth, rtol=2e-3, atol=2e-3)

    def _run_well(self, *, repair: bool) -> None:
        missing = len(self.images.keys() - self._known_images())
        self.world.encoded = 0
        try:
            self._precompute(repair=repair)
        except UsageError as error:  # most images of the cache left the dataset since; the way out that it names
            assert "which is more than half" in str(error)
            missing = len(self.images)
            self._precompute(repair=repair, overwrite=True)
        self.is_damaged = False
        assert self.world.encoded <= missing
        cache = Cache.open(self.output)
        assert len(list(cache.verify())) == len(cache.shards)
        found = {}
        for tables in cache.tables():
            assert tables.sum is not None
            for row, path in enumerate(tables.path):
                (caption,) = tables.text[tables.first_caption[row] : tables.first_caption[row + 1]]
                assert path not in found
                found[path] = Known(self.world.sums[tables.sum[row].tobytes()], caption)
        assert found == self.images
        names = {path.name for path in self.output.parent.iterdir()}
        assert names == {self.output.name, *(shard.path.name for shard in cache.shards)}

    def _run_badly(self, at: int, error: int | None, *, lasting: bool) -> None:
        before = self._known_images()
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, self.output.parent, at=at, error=error, lasting=lasting)
            try:
                self._precompute(repair=self.is_damaged)
                ended = True
            except (Crash, AssertionError):
                assert error is None
                ended = False
            except ClipCapError as found:
                assert "\n" not in str(found)
                ended = False
        if ended and not faults.failed:
            self.is_damaged = False
        assert before & self.images.keys() <= self._known_images()

    def _precompute(self, **options: Any) -> None:
        start.precompute(self.dataset, self.output, self.world.settings, **options)

    def _known_images(self) -> set[str]:
        """Return the images of the dataset that have a whole row, made from their content of now."""
        store, found = FolderStore(self.dataset), set()
        for tables in self._whole().values():
            assert tables.sum is not None
            for path, known in zip(tables.path, tables.sum, strict=True):
                if path in self.images and read_stamped(store, path)[1].sum == known.tobytes():
                    found.add(path)
        return found

    def _whole(self) -> dict[Path, ShardTables]:
        """Return the shards whose tables are those that were written."""
        found = {}
        for path in self._files():
            if path != self.output:
                try:
                    with open_hdf5(path) as file:
                        entry = describe_shard(path, file)
                    found[path] = read_checked(entry)
                except CacheError:
                    pass
        return found

    def _files(self) -> list[Path]:
        return sorted(self.output.parent.glob("c*.h5"))

    def _choose(self, choice: Any) -> str:
        name: str = choice.choice(sorted(self.images))
        return name

    def _write(self, name: str, known: Known) -> None:
        self.world.picture(known.picture).save(self.dataset / name)
        os.utime(self.dataset / name, ns=(0, 1_000_000 * known.picture))  # a clock that ticks slowly keeps the time
        (self.dataset / name).with_suffix(".txt").write_text(known.caption + "\n")
        self.world.sums[read_stamped(FolderStore(self.dataset), name)[1].sum] = known.picture
        self.images[name] = known

    def _remove(self, name: str) -> None:
        (self.dataset / name).unlink()
        (self.dataset / name).with_suffix(".txt").unlink()
        del self.images[name]


@pytest.fixture
def world(clip_folder: Path, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The world in which the models are loaded once."""
    settings = PrecomputeSettings(
        encoder=str(clip_folder), tokenizer=str(tokenizer_folder), batch_size=BATCH, shard_size=SHARD, workers=0,
        device="cpu", precision="fp32",
    )  # fmt: skip
    for module, name in ((start, "load_encoder"), (start, "choose_tokenizer"), (finished, "load_tokenizer")):
        original = getattr(module, name)
        made: dict[int, Any] = {}

        def once(*given: Any, original: Any = original, made: dict[int, Any] = made, **options: Any) -> Any:
            if not made:
                made[0] = original(*given, **options)
            return made[0]

        monkeypatch.setattr(module, name, once)
    device = torch.device("cpu")
    encoder = load_encoder(str(clip_folder), None, device=device, precision="fp32", features="projected")
    world, begin = World(settings, encoder), pipeline._start

    def counting(encoder: Encoder, pixels: torch.Tensor) -> torch.Tensor:
        world.encoded += len(pixels)
        return begin(encoder, pixels)

    monkeypatch.setattr(pipeline, "_start", counting)
    return world


def test_a_cache_stays_true_through_any_sequence_of_runs_crashes_damage_and_changes(world: World) -> None:
    rows = np.array([world.embedding(number) for number in range(8)])
    distances = abs(rows[:, None] - rows[None]).max(axis=-1) + np.eye(8)
    assert distances.min() > 0.01  # so that rows that are swapped are seen
    run_machine(lambda: CacheMachine(world), settings=examples(8, 14))  # type: ignore[arg-type]
