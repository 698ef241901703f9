"""Caches of several encoders become one, whose embeddings of each encoder are those of its cache, bit by bit."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import timm
import torch
from runs import assert_same_weights, files
from safetensors.torch import save_file

from clipcap.caption.evaluate import evaluate
from clipcap.caption.inspect.describe import inspect
from clipcap.caption.inspect.doctor import examine_cache
from clipcap.caption.settings import CaptionerSettings
from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.cache.index import Cache, ShardEntry, check_shards, write_index
from clipcap.data.cache.shard import ShardTables, read_embeddings, read_shard, read_views, write_shard
from clipcap.data.errors import CacheError, ClipCapError, DamagedCacheError, SourceError, UsageError
from clipcap.data.pretrained.tokenizer import load_tokenizer, tokenizer_sha256
from clipcap.precompute import precompute
from clipcap.precompute.part import Part
from clipcap.precompute.settings import PrecomputeSettings
from small_world import Crash, crash_at, make_coco, small_models

NAMES = [f"{letter}.jpg" for letter in "abcdefg"]


def tables_of(paths: Sequence[str], width: tuple[int, ...], views: int, scale: float) -> ShardTables:
    """Return tables whose embeddings are drawn, with captions, tokens and a split that depend on the path alone."""
    random = np.random.default_rng([width[0], *map(ord, "".join(paths))])
    counts = [NAMES.index(path) % 3 for path in paths]
    train = [NAMES.index(path) != 2 for path in paths]
    tokens = [len(path) + i for path, count in zip(paths, counts, strict=True) for i in range(2 * count)]
    tables = ShardTables(
        embedding=random.normal(size=(len(paths), *width)).astype(np.float16),
        id=[path.removesuffix(".jpg") for path in paths],
        path=list(paths),
        split=np.array([0 if one else 1 for one in train], dtype=np.uint8),
        first_caption=np.cumsum([0, *counts], dtype=np.int64),
        text=[f"{path} {i}" for path, count in zip(paths, counts, strict=True) for i in range(count)],
        first_token=2 * np.arange(sum(counts) + 1, dtype=np.int64),
        token=np.array(tokens, dtype=np.uint16),
        failure_path=[],
        failure_reason=[],
        sum=np.array([[ord(path[0])] * 16 for path in paths], dtype=np.uint8).reshape(-1, 16),
        file_size=np.full(len(paths), 5, np.int64),
        file_time=np.full(len(paths), 6, np.int64),
        scale=scale,
    )
    if not views:
        return tables
    first_view = np.cumsum([0, *(views * one for one in train)], dtype=np.int64)
    view = random.normal(size=(first_view[-1], *width)).astype(np.float16)
    return replace(tables, view=view, first_view=first_view)


def write_cache(
    index: Path,
    shards: Sequence[Sequence[str]],
    encoder: str,
    width: tuple[int, ...] = (3,),
    *,
    scales: Sequence[float] = (),
    views: int = 0,
    shard_size: int = 4,
    changed: dict[str, Any] | None = None,
    failures: dict[str, str] | None = None,
    **known: Any,
) -> Path:
    """Write a cache with these images in its shards.

    Args:
        index: its file.
        shards: the paths of the images.
        encoder, width, views, shard_size, known: of the fingerprint.
        scales: of the shards.
        changed: tables that the first shard has in place of its own.
        failures: of the first shard.
    """
    recipe = Fingerprint.unchecked(
        encoder=encoder, width=width[-1], views=views, shard_size=shard_size,
        features="patches" if width[1:] else "pooled",
        **{"weights_sha256": encoder.lower() * 64, "tokenizer": "demo", "tokenizer_sha256": "f" * 64, **known},
    )  # fmt: skip
    entries = []
    index.parent.mkdir(exist_ok=True)
    for number, paths in enumerate(shards):
        tables = tables_of(paths, width, views, (*scales, *[1.0] * len(shards))[number])
        if number == 0:
            reasons = failures or {}
            tables = replace(
                tables, failure_path=list(reasons), failure_reason=list(reasons.values()), **(changed or {})
            )
        path = index.with_name(f"{index.stem}-{number:05d}.h5")
        content = write_shard(path, tables, recipe.to_json(), number)
        images, captions, tokens = tables.counts
        entries.append(ShardEntry(path=path, images=images, captions=captions, tokens=tokens, content=content))
    write_index(index, recipe, entries)
    return index


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    """Caches by two encoders: the second has patches, views, shards of another size, scales and another order."""
    a = write_cache(tmp_path / "a.h5", [NAMES[:4], NAMES[4:]], "A")
    b = write_cache(
        tmp_path / "b.h5",
        [["b.jpg", "a.jpg", "d.jpg"], ["g.jpg", "c.jpg", "e.jpg"], ["f.jpg"]],
        "B",
        (2, 5),
        scales=[1.0, 4.0, 2.0],
        views=2,
        shard_size=3,
        precision="bf16",
    )
    return [a, b]


def rows(cache: Cache) -> dict[str, Any]:
    """Return everything that is read of each image, by its path, as exact values."""
    found: dict[str, Any] = {}
    for shard, tables in zip(cache.shards, cache.tables(), strict=True):
        for row, path in enumerate(tables.path):
            first, last = tables.first_caption[row : row + 2]
            stored, scale = read_embeddings(shard.path, row, row + 1, shard.encoder)
            assert np.array_equal(stored[0], tables.embedding[row])
            views: list[Any] = []
            if tables.view is not None and tables.first_view is not None:
                own, first_view = read_views(shard.path, row, row + 1, shard.encoder)
                assert first_view.tolist() == [0]
                assert np.array_equal(own, tables.view[slice(*tables.first_view[row : row + 2])])
                views = (own.astype(np.float64) * scale).tolist()
            found[path] = {
                "embedding": (stored[0].astype(np.float64) * scale).tolist(),
                "views": views,
                "id": tables.id[row],
                "split": int(tables.split[row]),
                "captions": tables.text[first:last],
                "tokens": tables.token[slice(*tables.first_token[[first, last]])].tolist(),
                "sum": None if tables.sum is None else tables.sum[row].tolist(),
                "file": None if tables.file_size is None else int(tables.file_size[row]),
            }
    return found


def test_each_encoder_of_a_joined_cache_has_the_rows_of_its_cache(tmp_path: Path, two: list[Path]) -> None:
    result = precompute(two[0], tmp_path / "ab.h5", join=[two[1]])
    assert (result.images, result.shards, result.embedding_shape, result.failures) == (7, 3, (3,), [])
    joined = Cache.open(tmp_path / "ab.h5")
    assert [path for tables in joined.tables() for path in tables.path] == NAMES
    assert list(joined.by_encoder()) == ["A", "B"]
    for name, path in zip("AB", two, strict=True):
        chosen, alone = joined.with_encoder(name), Cache.open(path)
        assert rows(chosen) == rows(alone)
        assert chosen.embedding_shape == alone.embedding_shape
        assert (chosen.patches, chosen.views_of("train")) == (alone.patches, alone.views_of("train"))
        assert chosen.fingerprint == replace(alone.fingerprint, shard_size=3)
        assert all(tables.further == () for tables in chosen.tables())
    assert rows(joined) == rows(joined.with_encoder("A"))
    assert len(list(joined.verify())) == 3


def test_a_joined_cache_joins_with_a_third_one(tmp_path: Path, two: list[Path]) -> None:
    c = write_cache(tmp_path / "c.h5", [NAMES], "C", (6,), shard_size=7)
    precompute(two[0], tmp_path / "ab.h5", join=[two[1]])
    precompute(tmp_path / "ab.h5", tmp_path / "abc.h5", join=[c])
    precompute(two[0], tmp_path / "other" / "abc.h5", join=[two[1], c])
    joined = Cache.open(tmp_path / "abc.h5")
    assert list(joined.by_encoder()) == ["A", "B", "C"]
    assert rows(joined.with_encoder("B")) == rows(Cache.open(two[1]))
    assert rows(joined.with_encoder("C")) == rows(Cache.open(c))
    contents = [shard.content for shard in joined.shards]
    assert contents == [shard.content for shard in Cache.open(tmp_path / "other" / "abc.h5").shards]


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ([{"features": "pooled"}, {"features": "patches"}], ["A:pooled", "A:patches"]),
        ([{"pretrained": "openai"}, {"pretrained": "laion"}], ["A:openai", "A:laion"]),
        ([{"quick_gelu": True}, {"quick_gelu": False}], ["A:0", "A:1"]),
        ([{"features": "pooled"}, {"encoder": "B"}], ["A", "B"]),
    ],
)
def test_encoders_of_one_name_are_told_apart(
    tmp_path: Path, two: list[Path], changes: list[dict[str, Any]], names: list[str]
) -> None:
    recipes = [
        replace(Cache.open(two[0]).fingerprint, weights_sha256=f"{n}" * 64, **one) for n, one in enumerate(changes)
    ]
    cache = replace(Cache.open(two[0]), fingerprints=tuple(recipes))
    assert list(cache.by_encoder()) == names
    with pytest.raises(UsageError, match=f"`encoder` RN50 is not in .*a.h5; it has {', '.join(names)}"):
        cache.with_encoder("RN50")


def test_images_that_a_cache_lacks_are_left_out_and_recorded(
    tmp_path: Path, two: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    failures = {"b.jpg": "truncated"}
    fewer = [["a.jpg", "c.jpg"], ["e.jpg", "f.jpg", "d.jpg"]]
    c = write_cache(tmp_path / "c.h5", fewer, "C", shard_size=3, failures=failures)
    with caplog.at_level("INFO", "clipcap"):
        result = precompute(two[0], tmp_path / "ac.h5", join=[c])
    assert "2 images left out that not all of" in caplog.text
    assert result.images == 5
    assert result.failures == [("b.jpg", "not in c.h5: truncated"), ("g.jpg", "not in c.h5: not in its dataset")]
    joined = Cache.open(tmp_path / "ac.h5")
    assert rows(joined.with_encoder("C")) == rows(Cache.open(c))
    assert rows(joined) == {
        path: row for path, row in rows(Cache.open(two[0])).items() if path not in ("b.jpg", "g.jpg")
    }
    del fewer[1]
    few = write_cache(tmp_path / "few.h5", [NAMES[:3]], "C")
    with pytest.raises(SourceError, match=r"only 3 of 7 images .*a\.h5 and .*few\.h5, which is less than half"):
        precompute(two[0], tmp_path / "af.h5", join=[few])
    assert not list(tmp_path.glob("af*.h5"))


@pytest.mark.parametrize(
    ("changed", "known", "message"),
    [
        ({}, {"tokenizer_sha256": "0" * 64}, "other tokens (tokens of the tokenizer: ffffffffffff, not 000000000000)"),
        ({}, {"encoder": "A"}, "embeddings of the same encoder (A)"),
        ({"split": np.array([0, 0, 1, 1], np.uint8)}, {}, "d.jpg differs in split between"),
        ({"text": ["b.jpg 0", "c.jpg 0", "c.jpg one"]}, {}, "c.jpg differs in captions between"),
        ({"token": np.array([5, 7, 5, 6, 7, 8], np.uint16)}, {}, "b.jpg differs in tokens between"),
        ({"sum": np.zeros((4, 16), np.uint8)}, {}, "a.jpg differs in content between"),
        ({"path": ["a.jpg", "b.jpg", "c.jpg", "a.jpg"]}, {}, "c.h5 has a.jpg twice"),
    ],
)
def test_unequal_caches_are_refused_before_anything_is_written(
    tmp_path: Path, two: list[Path], changed: dict[str, Any], known: dict[str, Any], message: str
) -> None:
    folder = tmp_path / "c"
    c = write_cache(folder / "c.h5", [NAMES[:4], NAMES[4:]], **{"encoder": "C", "changed": changed, **known})
    before = files(tmp_path)
    with pytest.raises(ClipCapError) as caught:
        precompute(two[0], tmp_path / "ac.h5", join=[c])
    assert message in str(caught.value)
    assert files(tmp_path) == before


def test_images_whose_files_are_not_known_are_compared_without(tmp_path: Path, two: list[Path]) -> None:
    unknown = dict.fromkeys(("sum", "file_size", "file_time"))
    c = write_cache(tmp_path / "c.h5", [NAMES], "C", shard_size=7, changed=unknown)
    precompute(c, tmp_path / "ca.h5", join=[two[0]])
    assert rows(Cache.open(tmp_path / "ca.h5").with_encoder("C")) == rows(Cache.open(c))


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ({"retokenize": True}, "retokenize"),
        ({"part": Part(1, 2)}, "part"),
        ({"devices": 2}, "devices"),
        ({"engine": "ray"}, "engine"),
        ({"reuse": ["x.h5"]}, "reuse"),
        ({"settings": PrecomputeSettings(encoder="RN50")}, "encoder"),
    ],
)
def test_join_reads_no_image_and_takes_no_options_for_that(
    tmp_path: Path, two: list[Path], more: dict[str, Any], name: str
) -> None:
    with pytest.raises(UsageError, match=f"`join` .* leave `{name}` out"):
        precompute(two[0], tmp_path / "ab.h5", join=[two[1]], **more)


def test_no_other_cache_is_overwritten(tmp_path: Path, two: list[Path]) -> None:
    for own, output in ((two[0], two[0]), (two[0], two[1]), (two[0].with_name("a-00000.h5"), two[0])):
        with pytest.raises(UsageError, match="is the output itself"):
            precompute(own, output, join=[two[1]])
    other = write_cache(tmp_path / "ab.h5", [NAMES], "A")
    before = files(tmp_path)
    with pytest.raises(UsageError, match=r"ab.*\.h5 is from another run \(1 encoder, not 2\).*`overwrite`"):
        precompute(two[0], other, join=[two[1]])
    assert files(tmp_path) == before
    precompute(two[0], other, join=[two[1]], overwrite=True)
    c = write_cache(tmp_path / "c.h5", [NAMES], "C")
    with pytest.raises(UsageError, match=r"is from another run \(.*; encoder: B, not C; .*`overwrite`"):
        precompute(two[0], other, join=[c])
    assert list(Cache.open(other).by_encoder()) == ["A", "B"]


def test_a_join_that_crashes_anywhere_leaves_nothing_finished_and_goes_on(
    tmp_path: Path, two: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    precompute(two[0], tmp_path / "whole" / "ab.h5", join=[two[1]])
    for moment in range(8):  # two a file: three shards and the index
        output = tmp_path / str(moment) / "ab.h5"
        with monkeypatch.context() as patch:
            crash_at(patch, moment)
            with pytest.raises(Crash):
                precompute(two[0], output, join=[two[1]])
        if not output.exists():
            with pytest.raises(CacheError, match="does not exist"):
                Cache.open(output)
        precompute(two[0], output, join=[two[1]])
        assert {name: data for name, data in files(output.parent).items() if not name.startswith(".")} == files(
            tmp_path / "whole"
        )


def test_the_same_join_again_changes_nothing_and_follows_the_caches(tmp_path: Path, two: list[Path]) -> None:
    output = tmp_path / "ab.h5"
    assert not precompute(two[0], output, join=[two[1]]).was_finished
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("ab*.h5")}
    assert precompute(two[0], output, join=[two[1]]).was_finished
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("ab*.h5")} == before
    write_cache(two[0], [NAMES[:4]], "A", source_sha256="1" * 64)
    result = precompute(two[0], output, join=[two[1]])
    assert (result.was_finished, result.images, result.shards) == (False, 4, 2)
    assert not tmp_path.joinpath("ab-00002.h5").exists()
    assert rows(Cache.open(output)) == rows(Cache.open(two[0]))


@pytest.mark.parametrize("name", ["encoders/1/embedding", "encoders/1/view", "encoders/1/first_view"])
def test_verify_finds_damage_in_the_embeddings_of_a_further_encoder(
    tmp_path: Path, two: list[Path], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "ab.h5"
    precompute(two[0], output, join=[two[1]])
    expected = files(tmp_path)
    with h5py.File(tmp_path / "ab-00001.h5", "r+") as file:
        file[name][-1] = 0
    assert [problem is None for _, problem in check_shards(output)] == [True, False, True]
    with pytest.raises(DamagedCacheError, match=r"1 of 3 shards broken: ab-00001\.h5"):
        inspect(output, verify=True)
    precompute(two[0], output, join=[two[1]], repair=True)
    assert files(tmp_path) == expected


def test_a_further_encoder_whose_tables_are_missing_or_others_is_refused(tmp_path: Path, two: list[Path]) -> None:
    precompute(two[0], tmp_path / "ab.h5", join=[two[1]])
    shard = tmp_path / "ab-00001.h5"
    whole = shard.read_bytes()

    def drop(file: h5py.File) -> None:
        del file["encoders/1/embedding"]

    def shorten(file: h5py.File) -> None:
        file["encoders/1/embedding"].resize(2, axis=0)

    def widen(file: h5py.File) -> None:
        del file["encoders/1/embedding"]
        file["encoders/1/embedding"] = np.ones((3, 2, 6), np.float16)

    def forget(file: h5py.File) -> None:
        del file["encoders/fingerprint"]

    def link(file: h5py.File) -> None:
        del file["encoders/1"]
        file["encoders/1"] = h5py.ExternalLink("elsewhere.h5", "encoders/1")

    for damage in (drop, shorten, widen, forget, link):
        with h5py.File(shard, "r+") as file:
            damage(file)
        with pytest.raises(CacheError, match="ab-00001"):
            Cache.open(tmp_path / "ab.h5")
        shard.write_bytes(whole)
    with h5py.File(shard, "r+") as file:
        file["encoders/1/first_view"][1] = 7
    with pytest.raises(DamagedCacheError, match="encoder 1: images/first_view"):
        read_shard(shard)


def test_a_cache_of_one_encoder_has_no_group_of_encoders(two: list[Path]) -> None:
    for path in (two[0], Cache.open(two[0]).shards[0].path):
        with h5py.File(path) as file:
            assert "encoders" not in file


def test_inspect_and_the_doctor_name_all_encoders(tmp_path: Path, two: list[Path]) -> None:
    precompute(two[0], tmp_path / "ab.h5", join=[two[1]])
    facts = inspect(tmp_path / "ab.h5")
    assert facts["fingerprint"]["encoder"] == "A"
    assert facts["encoders"] == {
        "A": {
            "encoder": "A",
            "weights_sha256": "a" * 64,
            "features": "pooled",
            "width": 3,
            "precision": "",
            "views": 0,
        },
        "B": {
            "encoder": "B",
            "weights_sha256": "b" * 64,
            "features": "patches",
            "width": 5,
            "precision": "bf16",
            "views": 2,
        },
    }
    assert "encoders" not in inspect(two[0])
    findings, found = examine_cache(tmp_path / "ab.h5")
    assert (found["encoder"], found["not_examined"]) == ("A", "the embeddings of B: only those of A are")
    assert all("`output` CACHE" in one.fix for one in findings if "clipcap-precompute" in one.fix)


def small(clip: Path, tokenizer: Path, **changes: Any) -> PrecomputeSettings:
    return PrecomputeSettings(
        encoder=str(clip), tokenizer=str(tokenizer), batch_size=4, workers=0, device="cpu", precision="fp32", **changes
    )


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, small_cache: Path, tokenizer_folder: Path) -> tuple[Path, Path]:
    """The cache of a small timm encoder for the images of the small cache, and the one joined from both."""
    folder = tmp_path_factory.mktemp("joined")
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit").state_dict(), folder / "vit.safetensors")
    settings = PrecomputeSettings(
        encoder="timm:test_vit", pretrained=str(folder / "vit.safetensors"), tokenizer=str(tokenizer_folder),
        batch_size=4, workers=0, device="cpu", precision="fp32", shard_size=7, views=1,
    )  # fmt: skip
    precompute(small_cache.parent / "coco", folder / "vit.h5", settings)
    precompute(small_cache, folder / "both.h5", join=[folder / "vit.h5"])
    return folder / "vit.h5", folder / "both.h5"


@pytest.mark.slow
def test_training_on_a_joined_cache_gives_the_weights_of_training_on_each(
    tmp_path: Path, run: Any, small_cache: Path, real: tuple[Path, Path], lm_folder: Path
) -> None:
    vit, both = real
    options = [
        "--lm",
        lm_folder,
        "--epochs",
        1,
        "--batch-size",
        9,
        "--lr",
        1e-2,
        "--device",
        "cpu",
        "--precision",
        "fp32",
    ]
    for own, name in ((small_cache, ""), (vit, "timm:test_vit")):
        for stream in ((), ("--stream",)):
            alone, joined = tmp_path / f"alone{name}{stream}", tmp_path / f"joined{name}{stream}"
            assert run("train", own, "-o", alone, *options, *stream).status == 0
            result = run("train", both, "-o", joined, *options, *stream, *(("--encoder", name) if name else ()))
            assert result.status == 0, result.err
            assert ("`encoder`" in result.err or "--encoder chooses timm:test_vit" in result.err) == (not name)
            assert_same_weights(alone / "last", joined / "last")
    model = tmp_path / "joinedtimm:test_vit()"
    again = run("train", both, "-o", model, *options, "--encoder", "timm:test_vit", "--resume")
    assert (again.status, "is finished" in again.err) == (0, True)
    wrong = run("train", both, "-o", model, "--encoder", "clip", "--resume")
    assert wrong.status == 2
    assert "--encoder" in wrong.err
    unknown = run("train", both, "-o", tmp_path / "no", *options, "--encoder", "RN50")
    assert unknown.status == 2
    assert "RN50" in unknown.err
    assert "timm:test_vit" in unknown.err.splitlines()[-1]
    captions = [run("caption", cache, "--model", model, "--device", "cpu", "--split", "val") for cache in (vit, both)]
    assert captions[0].status == captions[1].status == 0
    assert captions[0].out == captions[1].out
    settings = CaptionerSettings(device="cpu", precision="fp32")
    one, other = (evaluate(cache, model, settings, split="val") for cache in (vit, both))
    assert [asdict(a)["captions"] for a in one.baselines] == [asdict(b)["captions"] for b in other.baselines]
    assert one.evaluated[0].captions == other.evaluated[0].captions
    doctor = run("inspect", model, "--doctor", "--cache", both)
    assert doctor.status in (0, 3), doctor.err
    none = run("caption", small_cache, "--model", model, "--device", "cpu")
    assert none.status == 2
    assert "another encoder" in none.err


def test_a_joined_cache_is_not_changed_by_its_dataset(
    tmp_path: Path, real: tuple[Path, Path], small_cache: Path, clip_folder: Path, tokenizer_folder: Path
) -> None:
    coco = small_cache.parent / "coco"
    for path in real[1].parent.glob("both*.h5"):
        shutil.copy(path, tmp_path)
    before = files(tmp_path)
    settings = small(clip_folder, tokenizer_folder, shard_size=7)
    for more in ({}, {"repair": True}, {"retokenize": True}, {"part": Part(1, 2)}):
        with pytest.raises(UsageError, match="joined from the caches of 2 encoders; change those caches and `join`"):
            precompute(coco, tmp_path / "both.h5", settings, **more)
        assert files(tmp_path) == before
    (tmp_path / "both.h5").unlink()
    with pytest.raises(UsageError, match="joined from"):
        precompute(coco, tmp_path / "both.h5", settings)


def test_rows_of_each_encoder_of_a_joined_cache_are_reused(
    tmp_path: Path, run: Any, real: tuple[Path, Path], small_cache: Path, clip_folder: Path, tokenizer_folder: Path
) -> None:
    vit, both = real
    coco = small_cache.parent / "coco"
    weights = Cache.open(vit).fingerprint.pretrained
    common = (*small_models(Path("timm:test_vit"), tokenizer_folder), "--pretrained", weights, "--views", 1)
    result = run("precompute", coco, "-o", tmp_path / "vit.h5", *common, "--reuse", both)
    assert result.status == 0, result.err
    assert "0 images to encode, 17 known" in result.err
    for name, row in rows(Cache.open(vit)).items():
        assert rows(Cache.open(tmp_path / "vit.h5"))[name] == row
    wrong = run("precompute", coco, "-o", tmp_path / "x.h5", *common, "--features", "patches", "--reuse", both)
    assert wrong.status == 2
    assert "has other embeddings" in wrong.err


def test_a_new_tokenizer_comes_along(tmp_path: Path, clip_folder: Path) -> None:
    coco = make_coco(tmp_path / "coco")
    settings = small(clip_folder, Path("new:300"))
    precompute(coco, tmp_path / "a.h5", settings)
    precompute(coco, tmp_path / "b.h5", replace(settings, tokenizer=str(tmp_path / "a-tokenizer"), features="pooled"))
    precompute(tmp_path / "a.h5", tmp_path / "moved" / "ab.h5", join=[tmp_path / "b.h5"])
    joined = Cache.open(tmp_path / "moved" / "ab.h5")
    for cache in joined.by_encoder().values():
        assert cache.tokenizer == str(tmp_path / "moved" / "ab-tokenizer")
        assert cache.fingerprint.tokenizer_sha256 == tokenizer_sha256(load_tokenizer(cache.tokenizer))
