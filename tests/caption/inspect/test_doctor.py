"""The doctor finds each fault that is put into a cache with known content, and nothing else; healthy caches have none.

An image of the small world has five attributes. Its captions name them, and its embedding is a sum of their directions.
"""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from clipcap.caption.inspect.doctor import Finding, examine_cache, examine_checkpoint
from clipcap.caption.inspect.doctor.alignment import align, evidence, peaks, segment, signed, whitened
from clipcap.caption.inspect.doctor.content import read_content
from clipcap.caption.inspect.doctor.examine import CACHE_CHECKS
from clipcap.caption.inspect.doctor.splits import least_expected
from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.cache.index import Cache, ShardEntry, write_index
from clipcap.data.cache.scale import magnitudes, scale_of, to_float16
from clipcap.data.pretrained.tokenizer import load_tokenizer, tokenizer_sha256
from clipcap.data.records import Record
from clipcap.data.settings import parameters_of
from clipcap.precompute import PrecomputeSettings, precompute
from clipcap.precompute.shards import build_tables, plan_shards, store_tables
from clipcap.train import TrainSettings
from small_world import DEMO_IMAGES

IMAGES, WIDTH = 400, 64
ATTRIBUTES = [
    ["one", "two", "three", "four"],
    ["red", "green", "blue", "white", "black"],
    ["dogs", "birds", "cars", "boats", "trees"],
    ["run", "wait", "shine", "move"],
    ["snow", "grass", "sand", "water"],
]
SENTENCES = [
    "{} {}{} {} {} on the {} .",
    "There are {} {}{} {} that {} near the {} .",
    "In a photo {} {}{} {} {} by some {} .",
]


@dataclass
class World:
    """The rows of a cache before it is written."""

    embedding: np.ndarray[Any, Any]
    captions: list[list[str]]
    split: list[str]
    path: list[str]
    recorded: dict[str, Any] = field(default_factory=dict)
    max_tokens: int | None = None

    def write(self, folder: Path, tokenizer_folder: Path) -> Path:
        """Write the cache, in shards of 150 rows, with a scale where float16 needs one."""
        tokenizer = load_tokenizer(str(tokenizer_folder))
        fingerprint = Fingerprint.unchecked(
            **{
                "encoder": "unknown",
                "width": WIDTH,
                "tokenizer": str(tokenizer_folder),
                "tokenizer_sha256": tokenizer_sha256(tokenizer),
                **self.recorded,
            }
        )
        entries: list[ShardEntry] = []
        for number, share in enumerate(plan_shards(len(self.embedding), 150)):
            records = [Record(self.path[i], self.path[i], self.split[i], tuple(self.captions[i])) for i in share]
            rows = self.embedding[share.start : share.stop]
            scale = scale_of(magnitudes(rows)[np.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))])
            tables = build_tables(records, to_float16(rows, scale), [None] * len(records), tokenizer, scale=scale)
            if self.max_tokens is not None:
                tables = cut_tokens(tables, self.max_tokens)
            entries.append(store_tables(folder / f"cache-{number:05d}.h5", tables, fingerprint, number))
        write_index(folder / "cache.h5", fingerprint, entries)
        return folder / "cache.h5"


def cut_tokens(tables: Any, longest: int) -> Any:
    """Cut the tokens of every caption, and keep the end-of-text token."""
    rows = [tables.token[a:b] for a, b in zip(tables.first_token, tables.first_token[1:], strict=False)]
    rows = [np.concatenate([row[:-1][:longest], row[-1:]]) for row in rows]
    return replace(tables, token=np.concatenate(rows), first_token=np.cumsum([0, *map(len, rows)]))


def make_world(images: int = IMAGES, seed: int = 0) -> World:
    """Draw images, with three captions each; every fifth image is held out."""
    rng = np.random.default_rng(seed)
    directions = [rng.normal(size=(len(values), WIDTH)) for values in ATTRIBUTES]
    base = 2 * rng.normal(size=WIDTH)  # all images share it, as those of a real encoder do
    embedding, captions = [], []
    for _ in range(images):
        content = [int(rng.integers(len(values))) for values in ATTRIBUTES]
        words = [values[i] for values, i in zip(ATTRIBUTES, content, strict=True)]
        embedding.append(base + sum(d[i] for d, i in zip(directions, content, strict=True)) + rng.normal(size=WIDTH))
        captions.append([s.format(words[0], "very " * int(rng.integers(4)), *words[1:]) for s in SENTENCES])
    every_fifth = ["train", "train", "train", "train", "val"]
    split = ["test" if number % 20 == 19 else every_fifth[number % 5] for number in range(images)]
    return World(np.stack(embedding), captions, split, [f"{number:06d}.jpg" for number in range(images)])


def checks(findings: list[Finding]) -> list[str]:
    """The names of findings."""
    return [finding.check for finding in findings]


@pytest.fixture(scope="module")
def words_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer with a token for each word of the small world."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("words")
    trained = ByteLevelBPETokenizer()
    texts = [text for texts in make_world().captions for text in texts]
    trained.train_from_iterator(texts, vocab_size=600, special_tokens=["<|endoftext|>"], show_progress=False)
    trained.save_model(str(folder))
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    AutoTokenizer.from_pretrained(str(folder)).save_pretrained(str(folder))
    return folder


@pytest.fixture
def examine(tmp_path: Path, words_folder: Path) -> Callable[[World], list[Finding]]:
    """A function that writes a world as a cache and examines it."""

    known = {parameter.name for parameter in parameters_of(PrecomputeSettings)} | {"output", "overwrite"}

    def run(world: World) -> list[Finding]:
        findings = examine_cache(world.write(tmp_path, words_folder))[0]
        for finding in findings:
            _, command, options = finding.fix.partition("clipcap-precompute ")
            assert command, finding.fix
            assert set(re.findall("`(.*?)`", options)) <= known, finding.fix
        return findings

    return run


Examine = Callable[[World], list[Finding]]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_healthy_cache_has_no_finding(examine: Examine, seed: int) -> None:
    assert examine(make_world(seed=seed)) == []


def test_a_healthy_cache_of_200_images_has_no_finding(examine: Examine) -> None:
    assert examine(make_world(200)) == []


def test_the_scale_of_embeddings_does_not_matter(examine: Examine) -> None:
    world = make_world()
    world.embedding *= 1e-2
    assert examine(world) == []


def test_a_dataset_that_is_sorted_by_class_has_no_finding_but_its_few_captions(examine: Examine) -> None:
    world = make_world()
    classes = [next(name for name in ATTRIBUTES[2] if name in texts[0]) for texts in world.captions]
    order = sorted(range(IMAGES), key=classes.__getitem__)
    world.embedding = world.embedding[order]
    world.captions = [[f"Some {classes[i]} .", f"A photo of {classes[i]} ."] for i in order]
    assert checks(examine(world)) == ["common_captions"]


def test_shuffled_rows_are_found(examine: Examine) -> None:
    world = make_world()
    world.embedding = world.embedding[np.random.default_rng(1).permutation(IMAGES)]
    (finding,) = examine(world)
    assert (finding.check, finding.count, finding.total) == ("shuffled", IMAGES, IMAGES)
    assert "clipcap-precompute" in finding.fix


def test_200_shuffled_rows_are_found(examine: Examine) -> None:
    world = make_world(200)
    world.embedding = world.embedding[np.random.default_rng(1).permutation(200)]
    assert checks(examine(world)) == ["shuffled"]


def test_a_shuffled_part_is_found_with_its_rows(examine: Examine) -> None:
    world = make_world()
    world.embedding[200:] = world.embedding[200 + np.random.default_rng(1).permutation(200)]
    (finding,) = examine(world)
    assert finding.check == "shuffled"
    assert abs(finding.count - 200) < 20
    assert "from 000" in finding.examples[0]


@pytest.mark.parametrize("shift", [1, -1, 3, -17, 150, -190])
def test_rows_that_are_shifted_are_found_with_their_shift(examine: Examine, shift: int) -> None:
    world = make_world()
    world.embedding = np.roll(world.embedding, shift, axis=0)  # captions of row i belong to embedding i + shift
    (finding,) = examine(world)
    assert (finding.check, finding.count) == ("shifted", IMAGES)
    assert f"row i{shift:+d} in all rows" in finding.message


@pytest.mark.parametrize("shift", [1, -2])
def test_rows_that_are_shifted_from_a_row_on_are_found_with_that_row(examine: Examine, shift: int) -> None:
    world = make_world()
    world.embedding[250:] = np.roll(world.embedding[250:], shift, axis=0)
    (finding,) = examine(world)
    assert finding.check == "shifted"
    assert f"row i{shift:+d}" in finding.message
    assert abs(finding.count - 150) < 10


def test_several_shifts_are_one_finding(examine: Examine) -> None:
    world = make_world()
    for row in (100, 250):  # two embeddings are missing
        world.embedding[row:-1] = world.embedding[row + 1 :].copy()
    world.embedding[-2:] = make_world(2, seed=5).embedding
    (finding,) = examine(world)
    assert finding.check == "shifted"
    assert abs(finding.count - 300) < 10
    assert [example.split(":")[0] for example in finding.examples] == ["shift -1", "shift -2"]


def test_a_shuffled_split_is_found(examine: Examine) -> None:
    world = make_world()
    rows = np.flatnonzero(np.array(world.split) == "val")
    world.embedding[rows] = world.embedding[np.random.default_rng(1).permutation(rows)]
    (finding,) = examine(world)
    assert (finding.check, finding.count) == ("shuffled", len(rows))
    assert finding.message.endswith("in the val split")


def test_half_the_rows_normalised_are_found(examine: Examine) -> None:
    world = make_world()
    world.embedding[:200] /= np.linalg.norm(world.embedding[:200], axis=1, keepdims=True)
    (finding,) = examine(world)
    assert (finding.check, finding.count) == ("mixed_norms", 200)


def test_rows_of_another_scale_are_found(examine: Examine) -> None:
    world = make_world()
    world.embedding[:50] *= 20
    (finding,) = examine(world)
    assert (finding.check, finding.count) == ("mixed_norms", 50)


def test_lengths_that_scatter_around_1_are_healthy(examine: Examine) -> None:
    world = make_world()
    world.embedding /= np.linalg.norm(world.embedding, axis=1).mean()
    assert examine(world) == []


@pytest.mark.parametrize("normalised", [True, False])
def test_lengths_other_than_the_fingerprint_says_are_found(examine: Examine, normalised: bool) -> None:
    world = make_world()
    if normalised:
        world.embedding /= np.linalg.norm(world.embedding, axis=1, keepdims=True)
    world.recorded["normalized"] = not normalised
    assert checks(examine(world)) == ["norms"]
    world.recorded["normalized"] = normalised
    assert examine(world) == []


@pytest.mark.parametrize(
    ("value", "check"), [(np.nan, "not_finite"), (np.inf, "not_finite"), (0.0, "zero"), (2.5, "constant")]
)
def test_a_row_without_content_is_found(examine: Examine, value: float, check: str) -> None:
    world = make_world()
    world.embedding[[7, 9]] = value
    if not np.isfinite(value):  # one number is enough
        world.embedding[9] = make_world().embedding[9]
        world.embedding[9, 5] = value
    (finding,) = examine(world)
    assert (finding.check, finding.count, finding.total) == (check, 2, IMAGES)
    assert finding.examples == ("row 7 (000007.jpg)", "row 9 (000009.jpg)")


def test_a_duplicated_block_is_found_with_its_first_rows_and_its_length(examine: Examine) -> None:
    world = make_world()
    world.embedding[300:340] = world.embedding[100:140]
    (finding,) = examine(world)
    assert (finding.check, finding.count) == ("repeated", 40)  # the copies are in the splits of the originals
    assert "40 rows from row 300 on equal those from row 100 on" in finding.message


def test_a_repeated_row_is_found(examine: Examine) -> None:
    world = make_world()
    world.embedding[12] = world.embedding[3]
    (finding,) = examine(world)
    assert (finding.check, finding.count) == ("repeated", 1)
    assert finding.examples == ("row 12 (000012.jpg) equals row 3 (000003.jpg)",)


def test_an_image_in_two_splits_is_found_by_its_row(examine: Examine) -> None:
    world = make_world()
    world.embedding[14] = world.embedding[3]
    world.captions[14] = world.captions[3]
    (finding,) = examine(world)
    assert (finding.check, finding.count) == ("leak", 1)
    assert finding.examples == ("train row 3 (000003.jpg) and val row 14 (000014.jpg)",)


def test_an_image_in_two_splits_is_found_by_its_name(examine: Examine) -> None:
    world = make_world()
    world.path[14] = world.path[3]
    (finding,) = examine(world)
    assert (finding.check, finding.count) == ("leak", 1)


def test_a_nearly_equal_image_in_two_splits_is_found(examine: Examine) -> None:
    world = make_world()
    noise = np.random.default_rng(1).normal(size=WIDTH)
    world.embedding[14] = world.embedding[3] + 0.05 * noise
    world.captions[14] = world.captions[3]
    (finding,) = examine(world)
    assert (finding.check, finding.count) == ("near_duplicate", 1)
    assert finding.examples[0].startswith("val row 14 (000014.jpg) and train row 3 (000003.jpg), distance 0.0")


@pytest.mark.parametrize(("images", "check"), [(0, "no_validation"), (5, "tiny_validation")])
def test_a_validation_split_that_is_too_small_is_found(examine: Examine, images: int, check: str) -> None:
    world = make_world()
    world.split = ["val" if number < images else "train" for number in range(IMAGES)]
    (finding,) = examine(world)
    assert (finding.check, finding.count) == (check, images)


def test_tokens_that_were_cut_at_10_are_found(examine: Examine) -> None:
    world = make_world()
    world.max_tokens = 10
    (finding,) = examine(world)
    assert finding.check == "cut_captions"
    assert "tokens" in finding.message


@pytest.mark.parametrize(("unit", "length"), [("token", "10 tokens"), ("word", "8 "), ("character", "36 characters")])
def test_texts_that_were_cut_are_found(examine: Examine, words_folder: Path, unit: str, length: str) -> None:
    world = make_world()
    tokenizer: Any = load_tokenizer(str(words_folder))

    def cut(text: str) -> str:
        if unit == "token":
            return str(tokenizer.decode(tokenizer(text)["input_ids"][:10]))
        return " ".join(text.split()[:8]) if unit == "word" else text[:36]

    world.captions = [[cut(text) for text in texts] for texts in world.captions]
    findings = examine(world)
    assert checks(findings) == ["cut_captions"]
    assert f"stop at {length}" in findings[0].message


def test_the_same_caption_for_many_images_is_found(examine: Examine) -> None:
    world = make_world()
    for number in range(0, IMAGES, 16):
        world.captions[number] = ["nan"]
    findings = examine(world)
    assert checks(findings) == ["common_captions"]
    assert "'nan' for 25 of 400" in findings[0].message


def test_one_image_without_captions_is_no_finding(examine: Examine) -> None:
    world = make_world()
    world.captions[5] = []
    assert examine(world) == []


def test_a_tenth_of_the_images_without_captions_is_found(examine: Examine) -> None:
    world = make_world()
    for number in range(0, IMAGES, 10):
        world.captions[number] = []
    (finding,) = examine(world)
    assert (finding.check, finding.count) == ("uncaptioned", 40)


def test_a_cache_without_any_caption_is_healthy(examine: Examine) -> None:
    world = make_world()
    world.captions = [[] for _ in world.captions]
    assert examine(world) == []


@pytest.mark.parametrize("blank", ["", " " * 200], ids=["empty", "spaces"])
def test_blank_captions_of_another_program_are_found(tmp_path: Path, words_folder: Path, blank: str) -> None:
    """This program leaves out blank captions, so they are put in after the cache was read."""
    content = read_content(make_world().write(tmp_path, words_folder))
    text = [blank if caption % 3 == 0 else text for caption, text in enumerate(content.text)]
    findings = [finding for check in CACHE_CHECKS for finding in check(replace(content, text=text), {})]
    assert [(finding.check, finding.count) for finding in findings] == [("empty_captions", IMAGES)]
    assert findings[0].examples[0] == "row 0 (000000.jpg)"


def test_a_shard_whose_images_could_not_be_read_is_examined(tmp_path: Path, words_folder: Path) -> None:
    path = make_world().write(tmp_path, words_folder)
    cache = Cache.open(path)
    record = Record("broken", "broken.jpg", "train", ("a dog",))
    tokenizer = load_tokenizer(str(words_folder))
    tables = build_tables([record], np.empty((0, WIDTH), np.float16), ["truncated"], tokenizer)
    empty = store_tables(tmp_path / "cache-00009.h5", tables, cache.fingerprint, 9)
    write_index(path, cache.fingerprint, [cache.shards[0], empty, *cache.shards[1:]])
    findings, facts = examine_cache(path)
    assert (findings, facts["images"]) == ([], IMAGES)
    write_index(path, cache.fingerprint, [empty])
    assert examine_cache(path) == ([], {"cache": str(path), "images": 0, "captions": 0})


CLIP_PIXELS = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
SIGLIP_PIXELS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize_mode": "squash"}


@pytest.mark.slow
def test_siglip_with_the_preprocessing_of_clip_is_found(examine: Examine) -> None:
    world = make_world()
    world.recorded = {"encoder": "ViT-B-16-SigLIP", "pretrained": "siglip.pt", "features": "pooled"}
    world.recorded["preprocess"] = {**CLIP_PIXELS, "interpolation": "bicubic", "resize_mode": "shortest"}
    (finding,) = examine(world)
    assert finding.check == "preprocessing"
    assert "mean [0.4814" in finding.message
    assert "webli" in finding.fix
    world.recorded["preprocess"] = SIGLIP_PIXELS
    assert examine(world) == []


def test_patches_are_examined_by_their_mean(tmp_path: Path, words_folder: Path) -> None:
    world = make_world()
    noise = np.random.default_rng(1).normal(size=(IMAGES, 4, WIDTH))
    world.embedding = np.roll(world.embedding, 5, axis=0)[:, None] + noise
    findings, facts = examine_cache(world.write(tmp_path, words_folder))
    assert checks(findings) == ["shifted"]
    assert facts["images"] == IMAGES


def test_few_images_are_not_compared_with_their_captions(tmp_path: Path, words_folder: Path) -> None:
    world = make_world(140)
    world.embedding = world.embedding[::-1]
    findings, facts = examine_cache(world.write(tmp_path, words_folder))
    assert findings == []
    assert "140 images" in facts["images_and_captions"]["by_the_words"]


def test_embeddings_beyond_float16_are_examined_by_their_true_values(tmp_path: Path, words_folder: Path) -> None:
    world = make_world()
    world.embedding *= 30_000
    findings, facts = examine_cache(world.write(tmp_path, words_folder))
    assert min(tables.scale for tables in Cache.open(tmp_path / "cache.h5").tables()) > 1
    assert findings == []
    median = np.median(np.linalg.norm(world.embedding, axis=1))
    assert facts["length_of_embeddings"]["median"] == pytest.approx(median, rel=1e-3)


def test_equal_rows_of_shards_with_different_scales_are_found(examine: Examine) -> None:
    world = make_world()
    world.embedding[305] = world.embedding[5]
    world.embedding[310] *= 1e5
    (finding,) = examine(world)
    assert (finding.check, finding.count) == ("repeated", 1)
    assert "row 305" in finding.examples[0]


def test_the_command_exits_with_3_where_there_are_findings(tmp_path: Path, run: Any, words_folder: Path) -> None:
    world = make_world()
    healthy = tmp_path / "healthy"
    healthy.mkdir()
    result = run("inspect", world.write(healthy, words_folder), "--doctor")
    assert result.status == 0
    assert result.out.endswith("no findings\n")
    world.embedding[7] = np.nan
    path = world.write(tmp_path, words_folder)
    result = run("inspect", path, "--doctor")
    assert result.status == 3
    assert "not_finite: 1 of 400 rows" in result.out
    assert f"--output {path} --overwrite" in result.out
    assert result.err.splitlines()[-1] == "clipcap-inspect: the doctor has 1 finding"


def test_commands_have_options_and_captions_stay_as_they_are(tmp_path: Path, run: Any, words_folder: Path) -> None:
    world = make_world()
    for number in range(0, IMAGES, 16):
        world.captions[number] = ["a `dog`"]
    result = run("inspect", world.write(tmp_path, words_folder), "--doctor")
    assert "'a `dog`' for 25 of 400" in result.out
    assert "--overwrite" in result.out


def test_json_is_one_object_with_findings_and_facts(tmp_path: Path, run: Any, words_folder: Path) -> None:
    world = make_world()
    world.embedding[7] = np.nan
    result = run("inspect", world.write(tmp_path, words_folder), "--doctor", "--json")
    assert result.status == 3
    content = json.loads(result.out)
    assert set(content) == {"findings", "facts"}
    (finding,) = content["findings"]
    assert (finding["check"], finding["count"], finding["total"]) == ("not_finite", 1, IMAGES)
    assert set(finding) == set(Finding.__dataclass_fields__)
    assert content["facts"]["images"] == IMAGES


def test_a_cache_is_given_alone_and_with_the_doctor(tmp_path: Path, run: Any, words_folder: Path) -> None:
    path = make_world(20).write(tmp_path, words_folder)
    for options in ([], ["--doctor"]):
        result = run("inspect", path, "--cache", path, *options)
        assert (result.status, result.out) == (2, "")
    assert str(path) in result.err


def test_checksums_are_verified_before_the_examination(tmp_path: Path, run: Any, words_folder: Path) -> None:
    path = make_world().write(tmp_path, words_folder)
    with h5py.File(tmp_path / "cache-00001.h5", "r+") as file:
        file["images/embedding"][3, 5] += 1
    assert run("inspect", path, "--doctor").status == 0
    result = run("inspect", path, "--doctor", "--verify")
    assert (result.status, result.out) == (2, "")
    assert "cache-00001.h5" in result.err


def test_the_doctor_and_an_export_are_asked_for_apart(tmp_path: Path, run: Any, words_folder: Path) -> None:
    path = make_world(20).write(tmp_path, words_folder)
    result = run("inspect", path, "--doctor", "--export", "rmokady", tmp_path / "m.pt")
    assert (result.status, result.out) == (2, "")
    assert "--export" in result.err and "--doctor" in result.err


def write_changed(cache: Path, folder: Path, change: Callable[[np.ndarray[Any, Any]], Any]) -> Path:
    """Write a copy of a cache in which the embeddings are changed in place."""
    opened = Cache.open(cache)
    shards = list(opened.tables())
    embedding = np.concatenate([tables.embedding for tables in shards])
    change(embedding)
    entries, first = [], 0
    for number, tables in enumerate(shards):
        rows = embedding[first : first + len(tables.id)]
        path = folder / f"cache-{number:05d}.h5"
        entries.append(store_tables(path, replace(tables, embedding=rows), opened.fingerprint, number))
        first += len(rows)
    write_index(folder / "cache.h5", opened.fingerprint, entries)
    return folder / "cache.h5"


def shuffle(rows: np.ndarray[Any, Any]) -> None:
    """Shuffle rows in place."""
    rows[:] = rows[np.random.default_rng(0).permutation(len(rows))]


def test_the_demo_is_healthy(demo_run: Any) -> None:
    folder, _ = demo_run
    findings, facts = examine_cache(folder / "cache.h5")
    assert findings == []
    assert facts["images_and_captions"]["z_by_the_text_tower"] > 50
    findings, facts = examine_checkpoint(folder / "checkpoints", folder / "cache.h5")
    assert findings == []
    assert facts["image_gap"] > 0.5
    assert facts["captioned_images"] == DEMO_IMAGES // 18
    assert len(facts["nearest_words_of_the_prefix"]) == 3


def test_the_text_tower_finds_shuffled_rows_among_few(tmp_path: Path, demo_run: Any) -> None:
    path = write_changed(demo_run[0] / "cache.h5", tmp_path, shuffle)
    findings, facts = examine_cache(path)
    assert checks(findings) == ["shuffled"]
    assert abs(facts["images_and_captions"]["z_by_the_text_tower"]) < 5
    findings, _ = examine_cache(tmp_path / "cache-00000.h5")  # a shard alone is a cache
    assert "shuffled" in checks(findings)


def collapse(trained: Path, folder: Path) -> Path:
    """Copy a checkpoint with a mapper that gives every image the same prefix."""
    shutil.copytree(trained / "best", folder)
    tensors = load_file(folder / "model.safetensors")
    layers = sorted(name for name in tensors if name.startswith("clip_project.") and name.endswith("weight"))
    tensors[layers[-1]] = torch.zeros_like(tensors[layers[-1]])
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_a_collapsed_model_is_found(tmp_path: Path, demo_run: Any, run: Any) -> None:
    cache, path = demo_run[0] / "cache.h5", collapse(demo_run[0] / "checkpoints", tmp_path / "collapsed")
    findings, facts = examine_checkpoint(path, cache)
    assert checks(findings) == ["image_gap", "collapse"]  # a model that ignores the image has both
    assert findings[1].count == facts["distinct_captions"] == 1
    known = {parameter.name for parameter in parameters_of(TrainSettings)} | {"output", "overwrite", "doctor"}
    assert all(set(re.findall("`(.*?)`", finding.fix)) <= known for finding in findings)
    result = run("inspect", path, "--doctor", "--cache", cache, "--json")
    assert result.status == 3
    assert [finding["check"] for finding in json.loads(result.out)["findings"]] == ["image_gap", "collapse"]


def test_a_checkpoint_without_a_cache_is_examined_in_part(demo_run: Any, run: Any) -> None:
    result = run("inspect", demo_run[0] / "checkpoints", "--doctor")
    assert result.status == 0
    assert "give a --cache" in result.out


def test_weights_that_are_not_finite_are_found(tmp_path: Path, demo_run: Any) -> None:
    shutil.copytree(demo_run[0] / "checkpoints/best", tmp_path / "broken")
    tensors = load_file(tmp_path / "broken/model.safetensors")
    name = next(iter(tensors))
    tensors[name].view(-1)[0] = torch.nan
    save_file(tensors, tmp_path / "broken/model.safetensors")
    (finding,) = examine_checkpoint(tmp_path / "broken", demo_run[0] / "cache.h5")[0]
    assert (finding.check, finding.count, finding.examples) == ("weights", 1, (name,))


def test_embeddings_that_are_not_finite_are_not_blamed_on_the_model(tmp_path: Path, demo_run: Any, run: Any) -> None:
    cache = write_changed(
        demo_run[0] / "cache.h5", tmp_path, lambda rows: rows.__setitem__(slice(None, None, 3), np.nan)
    )
    result = run("inspect", demo_run[0] / "checkpoints", "--doctor", "--cache", cache, "--json")
    assert result.status == 3
    content = json.loads(result.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    (finding,) = content["findings"]
    assert (finding["check"], finding["fix"]) == ("loss", f"clipcap-inspect {cache} --doctor")
    assert content["facts"]["loss"] is None and content["facts"]["image_gap"] is None


@pytest.mark.slow
def test_flickr8k_has_one_image_twice_and_no_other_fault(tmp_path: Path, shared: Path) -> None:
    data = shared / "data"
    settings = PrecomputeSettings(tokenizer=str(data / "gpt2"), captions=data / "flickr8k-full")
    cache = precompute(data / "embeddings/flickr8k_mobilenet_v2.pkl", tmp_path / "cache.h5", settings)
    findings, facts = examine_cache(cache.path)
    assert checks(findings) == ["repeated"]  # the bytes of the two files are equal
    assert "3050606344_af711c726c.jpg" in findings[0].examples[0]
    assert "2851198725_37b6027625.jpg" in findings[0].examples[0]
    assert facts["nearest_training_image"]["held_out_images"] == 2000
    assert facts["images_and_captions"]["z_by_the_words"] > 500
    (tmp_path / "shifted").mkdir()
    path = write_changed(cache.path, tmp_path / "shifted", lambda rows: rows.__setitem__(..., np.roll(rows, 7, axis=0)))
    assert "row i+7 in all rows" in {f.check: f for f in examine_cache(path)[0]}["shifted"].message


def test_a_relation_is_measured_at_its_shift_alone() -> None:
    rng = np.random.default_rng(0)
    n, every = 500, np.ones(500, dtype=bool)
    x = rng.normal(size=(n, 6)).astype(np.float32)
    y = x @ rng.normal(size=(6, 4)).astype(np.float32)
    x, y = whitened(x, every), whitened(y, every)
    for shift in (0, 1, -1, 123, -249):
        z = align(np.roll(x, shift, axis=0), y)
        assert peaks(z, 7, 16) == [shift]
        assert z.max() > 100
    parts = segment(evidence(x, y, [0]), [0])
    assert [(part.first, part.last, part.shift) for part in parts] == [(0, n, 0)]
    y[200:300] = 0  # images without captions are not unrelated
    assert len(segment(evidence(x, y, [0]), [0])) == 1
    assert [signed(shift, 5) for shift in range(5)] == [0, 1, 2, -2, -1]


def test_the_least_distance_is_expected_from_the_quartiles() -> None:
    rng = np.random.default_rng(0)
    distances = rng.random(1000) ** 0.25  # P(distance < r) = r ** 4
    assert least_expected(distances.astype(np.float32)) == pytest.approx(1000**-0.25, rel=0.15)
    distances[:100] = 1e-3  # duplicates
    assert least_expected(distances.astype(np.float32)) == pytest.approx(1000**-0.25, rel=0.5)
