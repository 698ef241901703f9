"""Reads pickles of other programs without running what they name. No other module opens a pickle.

A pickle is a program: it names functions, which Python's own reader calls. This reader knows a short list of names,
those that arrays, tensors and plain collections are made of, and refuses any other name before anything is called.
While it reads, stand-ins take the place of arrays and tensors; they are checked, and replaced by the real ones at the
end.

A small pickle can also ask for much work. An object may occur twice in another one that occurs twice, and so on.
Python's fast reader hashes keys of any depth, and takes memory for any number by which a pickle remembers an object. So
this is the slow one, written in Python. It refuses keys that are no plain values, values nested more than `_MAX_DEPTH`
deep, and tensors that together have far more bytes than the file; and each object is converted once.
"""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from clipcap.data.errors import SourceError, one_line, unreadable
from clipcap.data.files import BoundedFile, open_file
from clipcap.data.memory import exhausted_memory

_SlowReader: Any = pickle._Unpickler
_MAX_DEPTH = 64
_MOST_RATIO, _MOST_BYTES = 4, 1 << 24  # of all tensors: tied ones share memory, and those with a stride of 0


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
        with open_file(path) as file:
            return _real(_Reader(BoundedFile(file), path, set(stubs)).load())
    except SourceError:
        raise
    except _ForbiddenTensorError as error:
        raise refusal(path, str(error)) from error
    except (OSError, MemoryError) as error:
        raise unreadable(path, error, "give another file") from error
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
        with open_file(path) as file:
            stored: Any = file if _is_archive(file) else BoundedFile(file)  # texts in it may claim any length
            return torch.load(stored, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise refusal(path, one_line(error)) from error
    except (OSError, MemoryError) as error:
        raise unreadable(path, error, "give another file") from error
    except Exception as error:
        if exhausted_memory(error):  # a RuntimeError of torch
            raise unreadable(path, error, "") from error
        fact = f"{type(error).__name__}: {one_line(error)}"
        raise SourceError(f"{path} cannot be read by torch ({fact[:160]}); give another file") from error


def _is_archive(file: BinaryIO) -> bool:
    """Whether a file is an archive, as torch writes since 1.6; the file is left at its beginning.

    Raises:
        ValueError: its members are compressed: torch writes none of these, and unpacks any.
    """
    is_archive = zipfile.is_zipfile(file)
    if is_archive:
        with zipfile.ZipFile(file) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("it is a compressed archive")
    file.seek(0)
    return is_archive


def refusal(path: Path, message: str) -> SourceError:
    """The error for a file that names something forbidden, made from torch's message."""
    named = message.partition("GLOBAL ")[2].split(" ")[0]
    what = f"names {named}" if named else "names something besides tensors"
    return SourceError(f"{path} {what}, which could run code; nothing of it was read; give a file of tensors alone")


class _Reader(_SlowReader):  # type: ignore[misc]
    dispatch: ClassVar[dict[int, Any]] = dict(_SlowReader.dispatch)

    def __init__(self, file: BoundedFile, path: Path, stubs: set[tuple[str, str]]) -> None:
        super().__init__(file)
        self.path, self.stubs = path, stubs
        self.bytes_left = _MOST_BYTES + _MOST_RATIO * file.size  # for tensors, and the bytes that they are made of

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.stubs:
            # A new class for each use, so that nothing that a pickle does to it lasts.
            return type(name, (Stub,), {})
        make = _ALLOWED.get((module, name))
        if make is None:
            raise SourceError(
                f"{self.path} names {f'{module}.{name}':.80}, which could run code; nothing of it was read; give a "
                "file of arrays and texts alone"
            )
        return make()

    def persistent_load(self, _: Any) -> Any:
        raise SourceError(f"{self.path} refers to data outside of the file; give a file that is whole")

    def load_reduce(self) -> None:
        """Call what a pickle names, and count the bytes of what was made."""
        super().load_reduce()
        made = self.stack[-1]
        self.bytes_left -= len(made) if isinstance(made, bytes) else getattr(made, "nbytes", 0)
        if self.bytes_left < 0:
            raise ValueError("its tensors have far more bytes than the file")

    def load_setitem(self) -> None:
        """Set an item of a dictionary."""
        _check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        """Set several items of a dictionary; they are on the stack above its last mark."""
        _check_keys(self.stack[::2])
        super().load_setitems()

    def load_dict(self) -> None:
        """Make a dictionary of the items above the last mark."""
        _check_keys(self.stack[::2])
        super().load_dict()

    def load_additems(self) -> None:
        """Add items to a set; they are on the stack above its last mark."""
        _check_keys(self.stack)
        super().load_additems()

    def load_bytearray8(self) -> None:
        """Read a bytearray; its size is checked by the file."""
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    for _code, _load in (
        (pickle.REDUCE, load_reduce), (pickle.SETITEM, load_setitem), (pickle.SETITEMS, load_setitems),
        (pickle.DICT, load_dict), (pickle.ADDITEMS, load_additems), (pickle.BYTEARRAY8, load_bytearray8),
    ):  # fmt: skip
        dispatch[_code[0]] = _load
    for _code in (pickle.FROZENSET, pickle.EXT1, pickle.EXT2, pickle.EXT4):
        del dispatch[_code[0]]


def _check_keys(keys: Iterable[Any]) -> None:
    for key in keys:
        if not isinstance(key, str | int | float | bytes | None):
            raise ValueError(f"a dictionary or a set with a key that is a {type(key).__name__}")


class _ForbiddenTensorError(Exception):
    """A tensor in a pickle is one itself, which names something forbidden; with torch's message."""


class _Closed:
    """Base of stand-ins whose attributes a pickle cannot set."""

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a pickle that sets the attributes of a tensor")


class _Storage(_Closed):
    """Stands for a tensor's memory, which torch's own reader of tensors has loaded."""

    def __init__(self, data: bytes) -> None:
        import torch

        if type(data) is not bytes or data.startswith(b"PK"):  # torch writes no archive here
            raise ValueError("a tensor without its memory")
        self.nbytes = len(data)
        file = io.BytesIO(data)
        try:
            self.storage = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise _ForbiddenTensorError(one_line(error)) from error
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
        self.nbytes = math.prod(size) * flat.element_size()
        self.tensor = flat.as_strided(size, stride, offset)


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
        if dtype.kind not in "biufSU" or not dtype.itemsize:
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
    array.state = (1, shape, dtype, order == "F", data)
    return array


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    import numpy as np

    return np.frombuffer(data, dtype=dtype.numpy())[0].item()


def _real(value: Any, made: dict[int, tuple[Any, Any]] | None = None, depth: int = 0) -> Any:
    """Replace the stand-ins in a value, at any depth, by the arrays and tensors that they stand for.

    Each object is looked at once, however many places it has.

    Args:
        value: what was read.
        made: by `id`, the objects that were converted, whose `id` stays their own, and the results.
        depth: of the value in the whole.

    Raises:
        ValueError: the value is nested more than `_MAX_DEPTH` deep, or contains itself.
    """
    if not isinstance(value, dict | list | tuple | _Array | _Tensor):
        return value
    made = {} if made is None else made
    if id(value) in made:
        return made[id(value)][1]
    if depth > _MAX_DEPTH:
        raise ValueError(f"it is nested more than {_MAX_DEPTH} deep")
    result: Any = value
    if isinstance(value, _Array):
        result = value.numpy()
    elif isinstance(value, _Tensor):
        result = value.tensor
    elif isinstance(value, tuple):
        result = tuple(_real(item, made, depth + 1) for item in value)
    elif isinstance(value, dict):
        for key, item in value.items():
            value[key] = _real(item, made, depth + 1)
    else:
        value[:] = [_real(item, made, depth + 1) for item in value]
    made[id(value)] = value, result
    return result


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":  # the only one that Python writes
        raise ValueError("a text in another encoding than latin1")
    return text.encode(encoding)


def _ordered(*arguments: Any) -> "OrderedDict[Any, Any]":
    pairs = [(key, value) for items in arguments for key, value in items]
    _check_keys(key for key, _ in pairs)
    return OrderedDict(pairs)


def _fresh(function: Callable[..., Any]) -> Callable[[], Any]:
    """Wrap a function anew for each use, because a pickle could set attributes on a lasting one."""

    def make() -> Any:
        def call(*arguments: Any) -> Any:
            return function(*arguments)

        return call

    return make


# For each allowed (module, name), what makes the function to call. numpy's modules were renamed in version 2.0.
_ALLOWED: dict[tuple[str, str], Callable[[], Any]] = {
    ("collections", "OrderedDict"): _fresh(_ordered),
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
