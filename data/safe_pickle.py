"""Reads pickles of other programs without running what they name. No other module opens a pickle.

A pickle is a program: it names functions, which Python's own reader calls. This reader knows a short list of names,
those that arrays, tensors and plain collections are made of, and refuses any other name before anything is called.
While it reads, stand-ins take the place of arrays and tensors; they are checked, and replaced by the real ones at the
end.
"""

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from clipcap.data.errors import SourceError, one_line


class Stub:
    """Stands for an object of a class that is not imported, with the attributes that the pickle sets."""

    def __init__(self, *arguments: Any) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        # pydantic keeps the fields one level deeper.
        if isinstance(state, dict):
            fields = state.get("__dict__", state)
            self.state = fields if isinstance(fields, dict) else {}


def read_pickle(path: Path, stubs: Iterable[tuple[str, str]] = ()) -> Any:
    """Read a pickle of dicts, lists, texts, numbers, numpy arrays and torch tensors.

    Args:
        path: the file.
        stubs: (module, class) names whose objects become a `Stub` each.

    Raises:
        SourceError: it cannot be read, is not a pickle, or names anything else.
    """
    try:
        with path.open("rb") as file:
            return _real(_Reader(file, path, set(stubs)).load())
    except SourceError:
        raise
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    except Exception as error:  # a damaged or hostile pickle may raise anything
        fact = f"{type(error).__name__}: {one_line(error)}"
        raise SourceError(f"{path} is not a pickle that can be read ({fact[:160]}); give another file") from error


def read_torch(path: Path) -> Any:
    """Read what `torch.save` wrote, with torch's own reader that loads tensors only, onto the CPU.

    Raises:
        SourceError: it cannot be read, or names anything but tensors and plain collections.
    """
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise refusal(path, one_line(error)) from error
    except OSError as error:
        raise SourceError(
            f"{path} cannot be read ({error.strerror or one_line(error)}); check its permissions"
        ) from error
    except Exception as error:
        fact = f"{type(error).__name__}: {one_line(error)}"
        raise SourceError(f"{path} cannot be read by torch ({fact[:160]}); give another file") from error


def refusal(path: Path, message: str) -> SourceError:
    """The error for a file that names something forbidden, made from torch's message."""
    named = message.partition("GLOBAL ")[2].split(" ")[0]
    what = f"names {named}" if named else "names something besides tensors"
    return SourceError(f"{path} {what}, which could run code; nothing of it was read; give a file of tensors alone")


class _Reader(pickle.Unpickler):
    def __init__(self, file: Any, path: Path, stubs: set[tuple[str, str]]) -> None:
        super().__init__(file)
        self.path, self.stubs = path, stubs

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.stubs:
            # A new class for each use, so that nothing that a pickle does to it lasts.
            return type(name, (Stub,), {})
        make = _ALLOWED.get((module, name))
        if make is None:
            raise SourceError(
                f"{self.path} names {module}.{name}, which could run code; nothing of it was read; give a file of "
                "arrays and texts alone"
            )
        return make()

    def persistent_load(self, _: Any) -> Any:
        raise SourceError(f"{self.path} refers to data outside of the file; give a file that is whole")


class _Closed:
    """Base of stand-ins whose attributes a pickle cannot set."""

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a pickle that sets the attributes of a tensor")


class _Storage(_Closed):
    """Stands for a tensor's memory, which torch's own reader of tensors has loaded."""

    def __init__(self, data: bytes) -> None:
        import torch

        file = io.BytesIO(data)
        try:
            self.storage = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise refusal(Path("a tensor in the file"), one_line(error)) from error
        if type(self.storage) is not torch.storage.TypedStorage:
            raise ValueError(f"a {type(self.storage).__name__} where a tensor's memory should be")


class _Tensor(_Closed):
    """Stands for a tensor: a view of a storage, whose bounds are checked against the storage's size."""

    def __init__(self, storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> None:
        import torch

        if not isinstance(storage, _Storage) or len(size) != len(stride):
            raise ValueError("a tensor without its memory")
        numbers = [offset, *size, *stride]
        if any(type(number) is not int or number < 0 for number in numbers):
            raise ValueError("a tensor of an impossible shape")
        flat = torch.empty(0, dtype=storage.storage.dtype).set_(storage.storage)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if 0 not in size and last >= len(flat):
            raise ValueError("a tensor larger than its memory")
        self.tensor = flat.as_strided(size, stride, offset).clone()


def _parameter(data: Any, *_: Any) -> Any:
    return data


class _Dtype:
    """Stands for a numpy dtype. numpy's own would trust whatever state the pickle sets."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">"):
            self.code = state[1] + self.code.lstrip("<>|=")

    def numpy(self) -> Any:
        """The dtype, which must be of numbers or texts.

        Raises:
            ValueError: it is of something else.
        """
        import numpy as np

        dtype = np.dtype(self.code)
        if dtype.kind not in "biufSU":
            raise ValueError(f"an array of {dtype}")
        return dtype


class _Array:
    """Stands for a numpy array."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def numpy(self) -> Any:
        """Build the array from the bytes that the pickle has set."""
        import numpy as np

        _, shape, dtype, fortran, data = self.state
        flat = np.frombuffer(data, dtype=dtype.numpy())
        return flat.reshape(shape, order="F" if fortran else "C")


def _from_buffer(data: Any, dtype: _Dtype, shape: Any, order: str) -> _Array:
    array = _Array()
    array.state = (1, shape, dtype, order == "F", bytes(data))
    return array


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    import numpy as np

    return np.frombuffer(data, dtype=dtype.numpy())[0].item()


def _real(value: Any) -> Any:
    """Replace the stand-ins in a value, at any depth, by the arrays and tensors that they stand for."""
    if isinstance(value, _Array):
        return value.numpy()
    if isinstance(value, _Tensor):
        return value.tensor
    if isinstance(value, dict):
        for key, item in value.items():
            value[key] = _real(item)
    elif isinstance(value, list):
        value[:] = [_real(item) for item in value]
    elif type(value) is tuple:
        return tuple(_real(item) for item in value)
    return value


def _encode(text: str, encoding: str) -> bytes:
    return text.encode(encoding)


def _fresh(function: Callable[..., Any]) -> Callable[[], Any]:
    """Wrap a function anew for each use, because a pickle could set attributes on a lasting one."""

    def make() -> Any:
        def call(*arguments: Any) -> Any:
            return function(*arguments)

        return call

    return make


# For each allowed (module, name), what makes the function to call. numpy's modules were renamed in version 2.0.
_ALLOWED: dict[tuple[str, str], Callable[[], Any]] = {
    ("collections", "OrderedDict"): lambda: OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _fresh(_Tensor),
    ("torch._utils", "_rebuild_parameter"): _fresh(_parameter),
    ("torch.storage", "_load_from_bytes"): _fresh(_Storage),
    ("_codecs", "encode"): _fresh(_encode),
    ("numpy", "ndarray"): lambda: None,  # named as an argument, never called
    ("numpy", "dtype"): _fresh(_Dtype),
    **{
        (f"numpy.{core}.{module}", name): _fresh(function)
        for core in ("core", "_core")
        for module, name, function in (
            ("multiarray", "_reconstruct", _Array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}
