"""A tokenizer and a language model made from the captions alone, through all stages."""

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from clipcap.caption import Captioner
from clipcap.data.cache.index import Cache
from clipcap.data.errors import UsageError
from clipcap.data.pretrained.new_tokenizer import new_size, train_tokenizer
from clipcap.data.pretrained.tokenizer import encode_captions, load_tokenizer, tokenizer_sha256
from clipcap.train.model.new_language_model import make_language_model
from small_world import make_coco

CAPTIONS = ["ein Hund läuft über die Wiese", "zwei Hunde laufen", "ein  Hund\nschläft", "犬が走る"]
TRAINING = ["--lm", "new:2x64", "--epochs", 2, "--batch-size", 9, "--precision", "fp32", "--device", "cpu"]


def test_a_cache_with_new_tokens_is_the_one_that_stage_1_makes(
    run: Any, coco: Path, tmp_path: Path, clip_folder: Path, tokenizer_folder: Path, index: Path
) -> None:
    before = Cache.open(index)
    fresh = tmp_path / "fresh.h5"
    for image in coco.glob("*2017/*.jpg"):
        image.rename(image.with_suffix(".gone"))  # no image is needed
    changed = run("precompute", coco, "-o", index, "--tokenizer", "new:280", "--retokenize")
    assert changed.status == 0, changed.err
    for image in coco.glob("*2017/*.gone"):
        image.rename(image.with_suffix(".jpg"))
    made = run("precompute", coco, "-o", fresh, *encoding(clip_folder, 280))
    assert made.status == 0, made.err
    one, other = Cache.open(index), Cache.open(fresh)
    assert one.fingerprint == other.fingerprint != before.fingerprint
    assert [shard.content for shard in one.shards] == [shard.content for shard in other.shards]
    assert load_tokenizer(one.tokenizer).get_vocab() == load_tokenizer(other.tokenizer).get_vocab()
    back = run("precompute", coco, "-o", index, "--tokenizer", "new:300", "--retokenize")
    assert back.status == 0, back.err
    assert Cache.open(index).shards == before.shards


def test_new_tokens_continue_after_a_crash_and_need_the_same_dataset(
    run: Any, coco: Path, tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retokenize: Any = importlib.import_module("clipcap.precompute.retokenize")

    store, calls = retokenize.store_tables, []

    def crash(*arguments: Any) -> Any:
        calls.append(arguments[0])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return store(*arguments)

    monkeypatch.setattr(retokenize, "store_tables", crash)
    command = ["precompute", coco, "-o", index, "--tokenizer", "new:280", "--retokenize"]
    assert run(*command).status == 130
    assert len(calls) == 2
    again = run(*command)
    assert again.status == 0, again.err
    assert len(calls) == 3  # the first shard had its tokens already
    assert {len(tables.text) for tables in Cache.open(index).tables()} == {30, 18}
    other = run("precompute", make_coco(tmp_path / "other", train=3), *command[2:])
    assert other.status == 2
    assert str(index) in other.err
    both = run(*command, "--overwrite")
    assert both.status == 2
    assert "--overwrite" in both.err
    assert Cache.open(index).fingerprint.tokenizer == "new:280"
    missing = run("precompute", coco, "-o", tmp_path / "none.h5", "--retokenize")
    assert missing.status == 2
    assert "none.h5" in missing.err


def test_overwrite_makes_the_cache_again_with_another_new_tokenizer(
    run: Any, coco: Path, index: Path, clip_folder: Path
) -> None:
    again = run("precompute", coco, "-o", index, *encoding(clip_folder, 280), "--overwrite")
    assert again.status == 0, again.err
    assert len(load_tokenizer(Cache.open(index).tokenizer)) == 280


def test_a_folder_with_other_files_in_place_of_the_tokenizer_is_left_alone(
    run: Any, coco: Path, tmp_path: Path, clip_folder: Path
) -> None:
    folder = tmp_path / "cache-tokenizer"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    result = run("precompute", coco, "-o", tmp_path / "cache.h5", *encoding(clip_folder))
    assert result.status == 2
    assert str(folder) in result.err
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


@pytest.fixture
def index(run: Any, coco: Path, tmp_path: Path, clip_folder: Path) -> Path:
    """A cache with a tokenizer of its own, in two shards."""
    index = tmp_path / "cache.h5"
    result = run("precompute", coco, "-o", index, *encoding(clip_folder))
    assert result.status == 0, result.err
    return index


def encoding(clip_folder: Path, size: int = 300) -> list[object]:
    options = ["--batch-size", 4, "--workers", 0, "--device", "cpu", "--shard-size", 10]
    return ["--encoder", clip_folder, "--tokenizer", f"new:{size}", *options]


def test_a_new_tokenizer_gives_every_text_back() -> None:
    tokenizer = train_tokenizer(CAPTIONS, 300)
    assert len(tokenizer) == 300
    assert tokenizer.eos_token_id == 299
    for text, tokens in zip(CAPTIONS, encode_captions(tokenizer, CAPTIONS), strict=True):
        assert tokenizer.decode(tokens[:-1]) == " ".join(text.split())
        assert tokens[-1] == 299
    assert tokenizer.decode(tokenizer("Ça va? 🐕")["input_ids"]) == "Ça va? 🐕"


def test_the_order_of_captions_does_not_change_a_new_tokenizer() -> None:
    hashes = {tokenizer_sha256(train_tokenizer(texts, 280)) for texts in (CAPTIONS, CAPTIONS[::-1])}
    assert len(hashes) == 1


@pytest.mark.parametrize("name", ["new:", "new:256", "new:5k", "new:-1", "new:0x1000"])
def test_a_wrong_number_of_tokens_is_an_error(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        new_size(name)


def test_a_new_language_model_has_the_sizes_and_spreads_of_gpt2() -> None:
    torch.manual_seed(0)
    lm: Any = make_language_model("new:6x384", train_tokenizer(CAPTIONS, 300))
    assert (lm.config.n_layer, lm.config.n_embd, lm.config.n_head, lm.config.vocab_size) == (6, 384, 6, 300)
    block = lm.transformer.h[3]
    assert float(block.mlp.c_fc.weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    # What is added to the residual stream is smaller, by the root of the number of additions.
    assert float(block.mlp.c_proj.weight.detach().std()) == pytest.approx(0.02 / 12**0.5, rel=0.02)


@pytest.mark.parametrize("name", ["new:6x100", "new:0x64", "new:6", "new:6x384x2"])
def test_a_wrong_size_of_a_language_model_is_an_error(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        make_language_model(name, train_tokenizer(CAPTIONS, 300))


def test_stage_1_trains_the_tokenizer_on_the_training_captions_and_keeps_it_beside_the_cache(
    run: Any, coco: Path, tmp_path: Path, clip_folder: Path, index: Path
) -> None:
    cache = Cache.open(index)
    assert cache.fingerprint.tokenizer == "new:300"
    assert cache.tokenizer == str(tmp_path / "cache-tokenizer")
    tokenizer = load_tokenizer(cache.tokenizer)
    assert tokenizer_sha256(tokenizer) == cache.fingerprint.tokenizer_sha256
    listed = json.loads((coco / "annotations/captions_train2017.json").read_text())["annotations"]
    expected = train_tokenizer([entry["caption"] for entry in listed], 300)
    assert tokenizer.get_vocab() == expected.get_vocab()
    tables = next(cache.tables())
    assert tables.token.tolist() == [token for row in encode_captions(expected, tables.text) for token in row]
    shutil.rmtree(tmp_path / "cache-tokenizer")
    again = run("precompute", coco, "-o", index, *encoding(clip_folder))
    assert (again.status, "nothing to do" in again.err) == (0, True)
    assert load_tokenizer(cache.tokenizer).get_vocab() == expected.get_vocab()
    other = run("precompute", coco, "-o", index, *encoding(clip_folder, 280))
    assert other.status == 2
    assert "tokenizer" in other.err


def test_a_folder_in_the_way_of_the_tokenizer_is_left_alone(
    run: Any, coco: Path, tmp_path: Path, clip_folder: Path
) -> None:
    (tmp_path / "cache-tokenizer").mkdir()
    (tmp_path / "cache-tokenizer/notes.txt").write_text("mine")
    result = run("precompute", coco, "-o", tmp_path / "cache.h5", *encoding(clip_folder))
    assert result.status == 2
    assert "cache-tokenizer" in result.err
    assert (tmp_path / "cache-tokenizer/notes.txt").read_text() == "mine"


def test_a_model_from_scratch_trains_resumes_and_captions_after_the_cache_has_moved(
    run: Any, tmp_path: Path, index: Path, coco: Path
) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in [*tmp_path.glob("cache*.h5"), tmp_path / "cache-tokenizer"]:
        shutil.move(path, moved / path.name)
    whole = run("train", moved / "cache.h5", "-o", tmp_path / "whole", *TRAINING)
    assert whole.status == 0, whole.err
    captioner = Captioner.from_checkpoint(tmp_path / "whole", device="cpu")
    assert captioner.config.language_model.name == "new:2x64"
    assert len(captioner.tokenizer) == captioner.model.gpt.config.vocab_size == 300
    first = captioner(next(Cache.open(moved / "cache.h5").tables()).embedding)
    started = run("train", moved / "cache.h5", "-o", tmp_path / "again", "--init", tmp_path / "whole", *TRAINING[2:])
    assert started.status == 0, started.err
    shutil.rmtree(moved)  # a checkpoint needs nothing of the cache
    assert captioner(torch.zeros(1, 16)) == Captioner.from_checkpoint(tmp_path / "whole", device="cpu")(
        torch.zeros(1, 16)
    )
    image = run("caption", coco / "val2017/000000000113.jpg", "--model", tmp_path / "whole", "--device", "cpu")
    assert image.status == 0, image.err
    assert len(first) == 10


def test_a_new_language_model_can_be_resumed_but_not_frozen(run: Any, tmp_path: Path, index: Path) -> None:
    from safetensors.torch import load_file

    frozen = run("train", index, "-o", tmp_path / "frozen", *TRAINING, "--tune", "none")
    assert frozen.status == 2
    assert "new:2x64" in frozen.err
    whole = run("train", index, "-o", tmp_path / "whole", *TRAINING)
    assert whole.status == 0, whole.err
    resumed = run("train", index, "-o", tmp_path / "whole", *TRAINING, "--resume")
    assert (resumed.status, "nothing to do" in resumed.err) == (0, True)
    other = run("train", index, "-o", tmp_path / "other", *TRAINING)
    assert other.status == 0
    weights = [load_file(tmp_path / name / "best/model.safetensors") for name in ("whole", "other")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
