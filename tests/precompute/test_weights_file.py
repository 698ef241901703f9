"""The error for a file of weights that cannot be loaded names the file and the architectures that fit it."""

import zipfile
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from clipcap.data.errors import ModelError
from clipcap.precompute.encoders.load import load_encoder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("resnet") / "weights.pt"
    torch.save(open_clip.create_model("RN50").state_dict(), file)
    return file


@pytest.mark.slow
def test_the_error_names_the_architectures_that_a_file_fits(resnet: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as raised:
        load_encoder("ViT-B-32", str(resnet), device=CPU)
    assert str(raised.value) == (
        f"{resnet} does not hold weights of ViT-B-32 but of RN50 or RN50-quickgelu; give that `encoder`"
    )
    # The same weights as open_clip's training saves them, and as safetensors.
    state = torch.load(resnet, weights_only=True)
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "epoch.pt")
    save_file(state, tmp_path / "weights.safetensors")
    for file in (tmp_path / "epoch.pt", tmp_path / "weights.safetensors"):
        with pytest.raises(ModelError, match="RN50 or RN50-quickgelu"):
            load_encoder("RN101", str(file), device=CPU)


def test_a_file_of_no_known_architecture_is_an_error(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"other\.safetensors"):
        load_encoder("RN50", str(tmp_path / "other.safetensors"), device=CPU)


@pytest.mark.slow
def test_damaged_files_and_torchscript_archives_are_refused(resnet: Path, tmp_path: Path) -> None:
    whole = resnet.read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt").write_text("weights")
    torch.save({"state_dict": {}}, tmp_path / "empty.pt")
    for name in ("cut.pt", "text.pt", "empty.pt"):
        with pytest.raises(ModelError, match=name):
            load_encoder("RN50", str(tmp_path / name), device=CPU)
    # A TorchScript archive is a zip file that holds code.
    with zipfile.ZipFile(tmp_path / "program.pt", "w") as archive:
        archive.writestr("program/code/__torch__.py", "class Program(Module):\n")
    with pytest.raises(ModelError, match="TorchScript"):
        load_encoder("RN50", str(tmp_path / "program.pt"), device=CPU)
