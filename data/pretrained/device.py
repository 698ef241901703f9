"""Which device and which arithmetic a run uses. torch is imported only when asked."""

from typing import TYPE_CHECKING, Any

from clipcap.data.errors import UsageError

if TYPE_CHECKING:
    import torch

PRECISIONS = ("fp32", "bf16", "fp16")


def choose_device(name: str = "auto") -> "torch.device":
    """The device of a run: `auto` is the first GPU, else Apple's, else the CPU.

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
        raise UsageError(f"--device {name} is not a device; use auto, cpu, cuda, cuda:1 or mps") from error
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not here.get(device.type, False) or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise UsageError(f"--device {name}: this machine (or this build of torch) has none; use --device cpu or auto")
    return device


def has_bf16(device: "torch.device") -> bool:
    """Whether the device calculates in bf16 itself, rather than emulating it."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # Older torch cannot tell.
        capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return False


def choose_precision(name: str, device: "torch.device", allowed: tuple[str, ...] = PRECISIONS) -> str:
    """Check a `--precision`, or choose one: on a GPU bf16 where it has it, everywhere else fp32.

    Stage 2 chooses for itself on a CPU (training tolerates bf16 there; embeddings are encoded once and kept).

    Raises:
        UsageError: the name is none of `allowed`.
    """
    if name == "auto":
        return "bf16" if device.type == "cuda" and has_bf16(device) else "fp32"
    if name not in allowed:
        raise UsageError(f"--precision {name} is not known; use auto, {', '.join(allowed)}")
    return name


def autocast(device: "torch.device", precision: str) -> "torch.autocast":
    """The context in which a model computes with this precision; its weights stay as they are."""
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    # With fp32 autocast is off: the dtype must still be one that the device's autocast knows.
    return torch.autocast(
        device.type, dtype=torch.bfloat16 if precision == "fp32" else dtype, enabled=precision != "fp32"
    )


def to_device(tensor: "torch.Tensor", device: "torch.device") -> "torch.Tensor":
    """A tensor of the CPU on a device, without waiting until a GPU has it: its work goes on meanwhile."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
