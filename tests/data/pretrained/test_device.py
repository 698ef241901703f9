"""The device and the precision of a run: what `auto` chooses, and which names are refused."""

import pytest
import torch

from clipcap.data.errors import UsageError
from clipcap.data.pretrained import device
from clipcap.data.pretrained.device import PRECISIONS, autocast, choose_device, choose_precision


@pytest.mark.parametrize(
    ("kind", "bf16", "captioning", "training"),
    [
        ("cuda", True, "bf16", "bf16"),
        ("cuda", False, "fp32", "fp16"),
        ("cpu", True, "fp32", "bf16"),
        ("cpu", False, "fp32", "fp32"),
        ("mps", False, "fp32", "fp32"),
    ],
)
def test_auto_chooses_the_precision_of_the_device_and_the_stage(
    monkeypatch: pytest.MonkeyPatch, kind: str, bf16: bool, captioning: str, training: str
) -> None:
    monkeypatch.setattr(device, "has_bf16", lambda _: bf16)
    assert choose_precision("auto", torch.device(kind)) == captioning
    assert choose_precision("auto", torch.device(kind), training=True) == training


@pytest.mark.parametrize("training", [False, True])
def test_a_precision_that_is_named_is_used_on_every_device(training: bool) -> None:
    for kind in ("cuda", "cpu", "mps"):
        chosen = [choose_precision(name, torch.device(kind), training=training) for name in PRECISIONS]
        assert chosen == ["fp32", "bf16", "fp16"]


def test_an_unknown_precision_or_device_is_an_error_that_names_it() -> None:
    with pytest.raises(UsageError, match="fp8"):
        choose_precision("fp8", torch.device("cpu"), training=True)
    with pytest.raises(UsageError, match="toaster"):
        choose_device("toaster")
    with pytest.raises(UsageError, match="cuda:99"):
        choose_device("cuda:99")


def test_autocast_computes_in_the_precision_and_leaves_fp32_alone() -> None:
    rows = torch.ones(2, 2)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with autocast(torch.device("cpu"), precision):
            assert (rows @ rows).dtype == dtype
    assert rows.dtype == torch.float32
