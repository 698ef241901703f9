"""Chooses the device and the precision of a run. torch is imported only when a function is called."""

from typing import TYPE_CHECKING, Any

from clipcap.data.errors import UsageError

if TYPE_CHECKING:
    import torch

PRECISIONS = ("fp32", "bf16", "fp16")


def choose_device(name: str = "auto") -> "torch.device":
    """Return the device of a run: `auto` is the first GPU, else Apple's GPU, else the CPU.

    Raises:
        UsageError: the name is not a device, or this machine has no such device.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"`device` {name} is not a device; use auto, cpu, cuda, cuda:1 or mps") from error
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not here.get(device.type, False) or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise UsageError(f"`device` {name}: this machine, or this build of torch, has none; use cpu or auto")
    return device


def has_bf16(device: "torch.device") -> bool:
    """Return whether the device has instructions for bf16, rather than emulating it."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # Versions of torch without `get_capabilities` count as a CPU without bf16.
        capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return False


def choose_precision(name: str, device: "torch.device", *, training: bool = False) -> str:
    """Return the precision of a language model: `name` itself, or for `auto` the best that device and stage allow.

        device                captioning    training
        GPU with bf16         bf16          bf16
        GPU without bf16      fp32          fp16
        CPU with bf16         fp32          bf16
        any other             fp32          fp32

    An image encoder decides by itself what `auto` is (precompute/encoders/base.py).

    Args:
        name: `auto`, `fp32`, `bf16` or `fp16`.
        device: where the model runs.
        training: whether the model is trained.

    Raises:
        UsageError: the name is not a precision.
    """
    if name == "auto":
        if has_bf16(device) and (training or device.type == "cuda"):
            return "bf16"
        return "fp16" if training and device.type == "cuda" else "fp32"
    if name not in PRECISIONS:
        raise UsageError(f"`precision` {name} is not known; use auto, {', '.join(PRECISIONS)}")
    return name


def dtype_of(precision: str) -> "torch.dtype":
    """Return the dtype that a precision computes with."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def autocast(device: "torch.device", precision: str) -> "torch.autocast":
    """Return the context in which a model computes with a precision. Its weights keep their dtype."""
    import torch

    # For fp32 autocast is off, but it still demands a dtype that it knows.
    enabled = precision != "fp32"
    return torch.autocast(device.type, dtype=dtype_of(precision) if enabled else torch.bfloat16, enabled=enabled)


def to_device(tensor: "torch.Tensor", device: "torch.device") -> "torch.Tensor":
    """Copy a tensor from the CPU to a device. The copy to a GPU runs while the program goes on."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
