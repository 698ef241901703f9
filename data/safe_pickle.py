"""Reading the pickles that others left, and never running what is in them: the only place that opens one.

A pickle is a program. This reader knows a short list of names, those that arrays, tensors and plain collections are
made of, and refuses any other by name before anything is called.
"""

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from clipcap.data.errors import SourceError, one_line


class Stub:
    """Stands for an object of a class that is not here: its attributes, as far as the pickle has them."""

    def __init__(self, *arguments: Any) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        # pydantic keeps the fields one level down.
        if isinstance(state, dict):
            fields = state.get("__dict__", state)
            self.state = fields if isinstance(fields, dict) else {}


def read_pickle(path: Path, stubs: Iterable[tuple[str, str]] = ()) -> Any:
    """What a pickle holds, of dicts, lists, texts, numbers, numpy arrays and torch tensors.

    Args:
        path: the file.
        stubs: (module, class) names whose objects become a `Stub`.

    Raises:
        SourceError: it cannot be read, is no pickle, or names anything else.
    """
    try:
        with path.open("rb") as file:
            return _real(_Reader(file, path, set(stubs)).load())
    except SourceError:
        raise
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror}); see to its permissions") from error
    except Exception as error:  # whatever a broken or a spiteful pickle leads to
        fact = f"{type(error).__name__}: {one_line(error)}"
        raise SourceError(f"{path} is no pickle that can be read ({fact[:160]}); give another file") from error


def read_torch(path: Path) -> Any:
    """What `torch.save` wrote, by torch's own reader of tensors alone, on the CPU.

    Raises:
        SourceError: it cannot be read, or names anything but tensors and plain collections.
    """
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise refusal(path, one_line(error)) from error
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror or one_line(error)}); see to it") from error
    except Exception as error:
        fact = f"{type(error).__name__}: {one_line(error)}"
        raise SourceError(f"{path} holds nothing that torch can read ({fact[:160]}); give another file") from error


def refusal(path: Path, message: str) -> SourceError:
    """The error of a file that names what it must not, from what torch says of it."""
    named = message.partition("GLOBAL ")[2].split(" ")[0]
    what = f"names {named}" if named else "names what is no tensor"
    return SourceError(f"{path} {what}, which could run code; nothing of it was read; give a file of tensors alone")


class _Reader(pickle.Unpickler):
    def __init__(self, file: Any, path: Path, stubs: set[tuple[str, str]]) -> None:
        super().__init__(file)
        self.path, self.stubs = path, stubs

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.stubs:
            # A class of its own, so that nothing a pickle does to it lasts.
            return type(name, (Stub,), {})
        make = _ALLOWED.get((module, name))
        if make is None:
            raise SourceError(
                f"{self.path} names {module}.{name}, which could run code; nothing of it was read; give a file of "
                "arrays and texts alone"
            )
        return make()

    def persistent_load(self, _: Any) -> Any:
        raise SourceError(f"{self.path} has parts that lie outside of it; give a file that is whole")


class _Closed:
    """Base of what stands for something else while a pickle is read: a pickle cannot set anything in it."""

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a pickle that sets what is in a tensor")


class _Storage(_Closed):
    """Stands for a tensor's memory, which torch's own reader of tensors read."""

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
    """Stands for a tensor: a window into a storage, held against its size."""

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
    """Stands for a numpy dtype while a pickle is read: numpy itself believes whatever a dtype's state says."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">"):
            self.code = state[1] + self.code.lstrip("<>|=")

    def numpy(self) -> Any:
        """The dtype, of numbers or texts.

        Raises:
            ValueError: it is of anything else.
        """
        import numpy as np

        dtype = np.dtype(self.code)
        if dtype.kind not in "biufSU":
            raise ValueError(f"an array of {dtype}")
        return dtype


class _Array:
    """Stands for a numpy array while a pickle is read."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def numpy(self) -> Any:
        """The array."""
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
    """The same with real arrays in the place of those that stood for them."""
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
    """A function that is made anew for each use: a pickle could set attributes on a lasting one."""

    def make() -> Any:
        def call(*arguments: Any) -> Any:
            return function(*arguments)

        return call

    return make


# (module, name) as pickles have it, to what makes the thing. numpy's modules have two names, of before and after 2.0.
_ALLOWED: dict[tuple[str, str], Callable[[], Any]] = {
    ("collections", "OrderedDict"): lambda: OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _fresh(_Tensor),
    ("torch._utils", "_rebuild_parameter"): _fresh(_parameter),
    ("torch.storage", "_load_from_bytes"): _fresh(_Storage),
    ("_codecs", "encode"): _fresh(_encode),
    ("numpy", "ndarray"): lambda: None,  # only ever named, as what is to be made
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
