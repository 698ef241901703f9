"""A file of weights that cannot be loaded: what is said of it, as true as it can be told."""

import zipfile
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from clipcap.data.errors import ModelError
from clipcap.precompute.encoder import load_encoder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("resnet") / "weights.pt"
    torch.save(open_clip.create_model("RN50").state_dict(), file)
    return file


@pytest.mark.slow
def test_the_architecture_that_a_file_fits_is_named(resnet: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as raised:
        load_encoder("ViT-B-32", str(resnet), device=CPU)
    assert str(raised.value) == (
        f"{resnet} does not hold weights of ViT-B-32 but of RN50 or RN50-quickgelu; give that --encoder"
    )
    # As training saves it, and as safetensors.
    state = torch.load(resnet, weights_only=True)
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "epoch.pt")
    save_file(state, tmp_path / "weights.safetensors")
    for file in (tmp_path / "epoch.pt", tmp_path / "weights.safetensors"):
        with pytest.raises(ModelError, match="does not hold weights of RN101 but of RN50 or RN50-quickgelu"):
            load_encoder("RN101", str(file), device=CPU)


def test_a_file_of_no_architecture(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="nor of any architecture that open_clip has; name the architecture"):
        load_encoder("RN50", str(tmp_path / "other.safetensors"), device=CPU)


@pytest.mark.slow
def test_damaged_files_and_programs(resnet: Path, tmp_path: Path) -> None:
    whole = resnet.read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt").write_text("weights")
    torch.save({"state_dict": {}}, tmp_path / "empty.pt")
    for name in ("cut.pt", "text.pt", "empty.pt"):
        with pytest.raises(ModelError, match="is damaged, or is no file of weights"):
            load_encoder("RN50", str(tmp_path / name), device=CPU)
    # What marks a TorchScript archive: it holds code.
    with zipfile.ZipFile(tmp_path / "program.pt", "w") as archive:
        archive.writestr("program/code/__torch__.py", "class Program(Module):\n")
    with pytest.raises(ModelError, match="is a TorchScript archive, a program, which is not run"):
        load_encoder("RN50", str(tmp_path / "program.pt"), device=CPU)
