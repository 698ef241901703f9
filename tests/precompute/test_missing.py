"""Most images of a real annotation file are missing: stage 1 stops, and the ways out that its error names work."""

from pathlib import Path
from typing import Any

import pytest

from clipcap.data.cache.index import Cache
from small_world import small_models


@pytest.fixture(params=["folder", "file"])
def source(request: pytest.FixtureRequest, shared: Path, tmp_path: Path) -> Path:
    """All 5,000 of COCO's val2017 captions, with the 159 images that exist."""
    if request.param == "file":
        return shared / "data/annotations/captions_val2017.json"
    (tmp_path / "coco/annotations").mkdir(parents=True)
    (tmp_path / "coco/annotations/captions_val2017.json").symlink_to(shared / "data/annotations/captions_val2017.json")
    (tmp_path / "coco/val2017").symlink_to(shared / "data/coco/val2017")
    return tmp_path / "coco"


def test_more_than_half_missing_is_an_error(run: Any, source: Path, tmp_path: Path) -> None:
    result = run("precompute", source, "-o", tmp_path / "cache.h5")
    assert result.status == 2
    assert len(result.err.splitlines()) == 1
    assert "4,841 of 5,000 listed images" in result.err
    assert "159" in result.err
    assert "--skip-missing" in result.err
    assert not list(tmp_path.glob("cache*"))


@pytest.mark.slow
@pytest.mark.parametrize(("option", "images"), [(["--skip-missing"], 159), (["--limit", 20], 20)])
def test_skip_missing_and_limit_use_the_images_that_exist(
    run: Any, source: Path, tmp_path: Path, clip_folder: Path, tokenizer_folder: Path, option: list[Any], images: int
) -> None:
    models = small_models(clip_folder, tokenizer_folder)
    result = run("precompute", source, "-o", tmp_path / "cache.h5", *models, *option)
    assert result.status == 0, result.err
    assert "4,841 listed" in result.err
    cache = Cache.open(tmp_path / "cache.h5")
    assert cache.images == images
    assert cache.captions >= 5 * images
