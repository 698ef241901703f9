"""Changes files at random: bytes of any file, and the structure of formats that are known by the suffix.

`mutate` applies one to three changes, drawn from a seeded generator, so that the same seed gives the same file.
hdf5_mutators.py has the changes of HDF5.
"""

import io
import json
import pickletools
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from random import Random
from typing import Any

Mutator = Callable[[bytes, Random, Sequence[bytes]], bytes]

# Around the limits of 8, 16, 32 and 64 bits, where numbers wrap around or sizes overflow.
_BITS = (0, 7, 8, 15, 16, 31, 32, 53, 63)
INTEGERS = tuple(sorted({sign * ((1 << bits) + step) for bits in _BITS for step in (-1, 0, 1) for sign in (1, -1)}))
# Names and captions that mislead programs: NUL, escape sequences, marks of direction, lone surrogates, line separators.
TEXTS = (
    "", " ", "\0", "a\0b", "\x1b[2J", "\u202e", "\ud800", "\u2028", "..", "../../x", "/etc/passwd", "./././", "C:\\x",
    "=1+1", "a" * 300, "a/" * 200, "nan", "-0", "1e999", "file:///x", "\n\n", "\r", "\ufeff", "%s{}{0.x}",
    "e\u0301" * 9,
)  # fmt: skip
_LONG_FIELD = 200_000  # characters; Python's CSV reader stops at 131,072
_ALLOWED_NAMES = (b"collections\nOrderedDict\n", b"numpy\nndarray\n", b"numpy\ndtype\n", b"_codecs\nencode\n",
                  b"numpy.core.multiarray\n_reconstruct\n", b"torch._utils\n_rebuild_tensor_v2\n", b"os\nsystem\n",
                  b"builtins\neval\n", b"torch.storage\n_load_from_bytes\n")  # fmt: skip


def mutate(name: str, data: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """Return changed content of a file.

    Args:
        name: of the file; its suffix decides which changes are possible.
        data: its content.
        others: content of other files of the format, for splices.
        random: decides the changes.
    """
    suffix = PurePosixPath(name).suffix.lower()
    structural = STRUCTURAL.get(suffix, ())
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        chosen = random.choice(structural if structural and random.random() < 0.6 else BYTES)
        try:
            data = chosen(data, random, others)
        except Exception:  # an earlier change broke the structure
            data = flip_bits(data, random, others)
    return data


def place(data: bytes, random: Random) -> int:
    """Return a position, every second time near one of the ends, where formats keep what says how to read the rest."""
    near = random.randrange(min(len(data), 512) + 1)
    return random.choice((near, len(data) - near, random.randrange(len(data) + 1), random.randrange(len(data) + 1)))


def flip_bits(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """Flip up to eight bits."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 8) if data else 0):
        changed[min(place(data, random), len(data) - 1)] ^= 1 << random.randrange(8)
    return bytes(changed)


def set_bytes(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """Overwrite up to eight bytes with random ones."""
    at = place(data, random)
    return data[:at] + random.randbytes(random.randint(1, 8)) + data[at + random.randint(0, 8) :]


def delete(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """Remove a part."""
    at = place(data, random)
    return data[:at] + data[at + _length(random) :]


def insert(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """Add a part of one repeated byte, or of random ones."""
    at, length = place(data, random), _length(random)
    new = random.randbytes(length) if random.random() < 0.5 else random.choice((b"\0", b"\xff", b" ", b"9")) * length
    return data[:at] + new + data[at:]


def duplicate(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """Repeat a part."""
    at, length = place(data, random), _length(random)
    return data[: at + length] + data[at : at + length] * random.choice((1, 1, 2, 20)) + data[at + length :]


def truncate(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """Cut the end off."""
    return data[: place(data, random)]


def splice(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """Continue with the end of another file."""
    other = random.choice([*others, data])
    return data[: place(data, random)] + other[place(other, random) :]


def set_integer(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """Write an integer at the limits of its width, in either byte order."""
    at, width = place(data, random), random.choice((1, 2, 4, 8))
    value = random.choice(INTEGERS) % (1 << 8 * width)
    return data[:at] + value.to_bytes(width, random.choice(("little", "big"))) + data[at + width :]


BYTES: tuple[Mutator, ...] = (flip_bits, set_bytes, delete, insert, duplicate, truncate, splice, set_integer)


def _length(random: Random) -> int:
    return random.choice((1, 2, 4, 8, 16, 64, 512, 5000))


# JSON and texts.


def change_json(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """Replace a value, rename, remove or double a key, or nest it deep."""
    text = data.decode()
    lines = text.splitlines(keepends=True)
    if len(lines) > 1 and lines[0].rstrip().endswith("}") and lines[0].startswith("{"):  # JSON lines
        number = random.randrange(len(lines))
        lines[number] = json.dumps(change_value(json.loads(lines[number]), random)) + "\n"
        return "".join(lines).encode("utf-8", "surrogatepass")
    return json.dumps(change_value(json.loads(text), random)).encode("utf-8", "surrogatepass")


def change_value(content: Any, random: Random) -> Any:
    """Change one value inside of JSON."""
    places = list(_places(content))
    if not places:
        return odd_value(content, random)
    container, key = random.choice(places)
    action = random.random()
    if action < 0.15:
        del container[key]
    elif action < 0.25 and isinstance(container, dict):
        container[random.choice((*TEXTS, key.upper(), key + "s"))] = container.pop(key)
    elif action < 0.25:
        container.insert(key, container[key])
    elif action < 0.35:  # the value of another place
        other, name = random.choice(places)
        container[key] = json.loads(json.dumps(other[name]))
    else:
        container[key] = odd_value(container[key], random)
    return content


def odd_value(value: Any, random: Random) -> Any:
    """Return a value of another type, or one that is unlikely."""
    if isinstance(value, int | float) and not isinstance(value, bool) and random.random() < 0.5:
        return random.choice((-value, value + 1, value - 1, value * 2, value / 2, 0, 1e9, str(value)))
    deep: Any = value
    depth = random.choice((3, 70, 500))
    return random.choice((
        None, True, False, [], {}, [value], {"a": value}, [None] * 5, float("nan"), float("inf"), -float("inf"), 1e308,
        0.5, -1, 1e9, 10**30, 2**70, str(value), random.choice(INTEGERS), random.choice(INTEGERS), random.choice(TEXTS),
        random.choice(TEXTS), "x" * random.choice((1000, _LONG_FIELD)), _nested(deep, depth, random.random() < 0.5),
    ))  # fmt: skip


def deep_json(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """Put brackets around the text, or into it, that nest very deep."""
    depth, (opening, closing) = random.choice((100, 20_000)), random.choice(((b"[", b"]"), (b'{"a":', b"}")))
    closing = closing if random.random() < 0.7 else b""
    if random.random() < 0.5:
        return opening * depth + data + closing * depth
    values = [match.span() for match in re.finditer(rb'"[^"]*"|\d+', data)]
    start, end = random.choice(values)
    return data[:start] + opening * depth + data[start:end] + closing * depth + data[end:]


def double_key(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """Give an object a key twice."""
    found = random.choice(list(re.finditer(rb'"[^"]*"\s*:\s*("[^"]*"|-?\d+)', data)))
    return data[: found.end()] + b", " + found[0] + data[found.end() :]


def change_line(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """Repeat, remove, swap, empty or lengthen a line, or one field of it."""
    lines = data.split(b"\n")
    number, other = random.randrange(len(lines)), random.randrange(len(lines))
    line = lines[number]
    fields = re.split(rb"([\t,|=: ])", line)
    field = random.randrange(len(fields))
    action = random.randrange(8)
    if action == 0:
        lines.insert(other, line)
    elif action == 1:
        del lines[number]
    elif action == 2:
        lines[number], lines[other] = lines[other], line
    elif action == 3:
        fields[field] = random.choice(TEXTS).encode("utf-8", "surrogatepass")
    elif action == 4:
        fields[field] = random.choice((b"x", b'"', b"\\", b"1,")) * _LONG_FIELD
    elif action == 5:
        fields[field] = str(random.choice((*INTEGERS, 1e999, "nan"))).encode()
    elif action == 6:
        fields[field] = random.choice((b'"', b'""', b"'", b"\t", b",", b"|", b"[", b"{", b"'''", b"#")) + fields[field]
    else:
        fields = fields[:field]
    if action >= 3:
        lines[number] = b"".join(fields)
    return b"\n".join(lines)


def change_encoding(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """Write a text in another encoding, with other line ends, or with a byte-order mark."""
    text = data.decode("utf-8", "replace")
    return random.choice((
        text.encode("utf-16"), text.encode("utf-32-le"), b"\xef\xbb\xbf" + data, text.encode("latin-1", "replace"),
        data.replace(b"\n", b"\r\n"), data.replace(b"\n", b"\r"), text.encode("utf-7"),
    ))  # fmt: skip


def _places(content: Any) -> "list[tuple[Any, Any]]":
    """Every (container, key or index) inside of JSON."""
    found: list[tuple[Any, Any]] = []
    rest = [content]
    while rest:
        value = rest.pop()
        keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        found += [(value, key) for key in keys]
        rest += [value[key] for key in keys]
    return found


def _nested(value: Any, depth: int, is_list: bool) -> Any:
    for _ in range(depth):
        value = [value] if is_list else {"a": value}
    return value


# Tars.


def change_tar_header(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """Change fields of a member's header, and make its checksum right again."""
    blocks = [at for at in range(0, len(data) - 511, 512) if data[at + 257 : at + 262] == b"ustar"]
    at = random.choice(blocks)
    header = bytearray(data[at : at + 512])
    start, length = random.choice(((0, 100), (100, 8), (124, 12), (124, 12), (124, 12), (136, 12), (156, 1), (157, 100),
                                   (257, 8), (329, 8), (345, 155)))  # fmt: skip
    header[start : start + length] = _tar_field(length, random)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:at] + bytes(header) + data[at + 512 :]


def _tar_field(length: int, random: Random) -> bytes:
    if length == 1:
        return random.choice(
            [b"0", b"1", b"2", b"3", b"5", b"6", b"7", b"L", b"K", b"x", b"g", b"S", b"D", b"\0", b"Z"]
        )
    if length > 12:
        text = random.choice((*TEXTS, "a.jpg", "b.txt", ".jpg", "x/../y.jpg", "a.jpg.jpg")).encode("utf-8", "replace")
        return text[:length].ljust(length, b"\0")
    value = random.choice(INTEGERS)
    octal = b"%o" % abs(value)
    base_256 = (value % (1 << 8 * (length - 1))).to_bytes(length - 1, "big")
    choices = [octal[-length + 1 :].rjust(length - 1, b"0") + b"\0", b"\x80" + base_256, b"\xff" + base_256,
               b"-1".ljust(length, b"\0"), b"7" * length, random.randbytes(length), b" " * length]  # fmt: skip
    return random.choice(choices)


def move_tar_block(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """Repeat, remove or zero a block of 512 bytes."""
    at = 512 * random.randrange(max(1, len(data) // 512))
    block = data[at : at + 512]
    return data[:at] + random.choice((b"", block * 2, bytes(512), block * 50)) + data[at + 512 :]


def add_tar_member(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """Add a member of an odd kind, with extended headers, before the others."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=random.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))) as tar:
        member = tarfile.TarInfo(random.choice(("a.jpg", "new.jpg", "new.json", "x" * 300 + ".jpg", "../x.jpg")))
        member.type = random.choice(
            (tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)
        )
        member.linkname = random.choice(("a.jpg", "/etc/passwd", "../x", "y" * 200))
        keys = (
            "size",
            "path",
            "GNU.sparse.map",
            "GNU.sparse.major",
            "GNU.sparse.size",
            "GNU.sparse.numblocks",
            "mtime",
        )
        values = ("-1", "0", "1", "9" * 30, "1,2,3", "nan", "a.jpg", "1e9", "", "x" * 2000)
        member.pax_headers = {random.choice(keys): random.choice(values) for _ in range(random.randint(0, 3))}
        tar.addfile(member)
    new = buffer.getvalue().rstrip(b"\0")
    return new + bytes(-len(new) % 512) + data


# Pickles.


def change_opcode(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """Remove, repeat or replace an instruction of a pickle."""
    found = [(opcode, start) for opcode, _, start in pickletools.genops(data)]
    number = random.randrange(len(found) - 1)
    start, end = found[number][1], found[number + 1][1]
    new = random.choice((
        b"", data[start:end] * 2, data[start:end] * 200, b"0", b"1", b"2", b"(", b"t", b"]", b"}", b"N", b"R", b"b",
        b"e",
        b"s", b"u", b"a", b"Q", b"\x81", b"\x85", b"\x86", b"\x87", b"\x90", b"\x91", b"\x94", b"j\xff\xff\xff\x7f",
        b"r\xff\xff\xff\x7f", b"r\xff\xff\xff\x00", b"h\0", b"h\1", b"K\0", b"J\xff\xff\xff\xff",
        b"\x8a\x08" + b"\xff" * 7 + b"\x7f",
        b"\x8b\xff\xff\xff\x7f", b"X\xff\xff\xff\xff", b"B\xff\xff\xff\x7f", b"\x8d" + b"\xff" * 8,
        b"\x8e" + b"\xff" * 7 + b"\x0f",
        b"\x96" + b"\xff" * 5 + b"\0\0\0", b"c" + random.choice(_ALLOWED_NAMES),
        b"c" + random.choice(_ALLOWED_NAMES) + b")R",
        b"I99999999999999999999\n", b"F1e999\n", b"p999999999\n", b"\x97", b"\x98",
    ))  # fmt: skip
    return data[:start] + new + data[end:]


def change_number(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """Replace an integer of a pickle, such as a number of a shape or a stride."""
    found = [(opcode, start) for opcode, _, start in pickletools.genops(data)]
    numbers = [i for i, (opcode, _) in enumerate(found) if opcode.name.startswith(("BININT", "INT", "LONG"))]
    number = random.choice(numbers)
    start, end = found[number][1], found[number + 1][1]
    value = random.choice(INTEGERS)
    size = (value.bit_length() // 8) + 1
    return data[:start] + b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True) + data[end:]


def shared_lists(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """Put lists into a pickle that hold the list before them twice, so that all paths through them are 2^n."""
    depth, memo = random.choice((20, 60, 200)), 1 << 16
    lists = b"]r" + struct.pack("<I", memo)
    for i in range(depth):
        one = b"j" + struct.pack("<I", memo + i)
        join = b"(" + one * 2 + random.choice((b"l", b"l", b"t"))
        lists += join + b"r" + struct.pack("<I", memo + i + 1)
    found = [start for _, _, start in pickletools.genops(data)]
    at = random.choice(found)
    return data[:at] + lists + random.choice((b"", b"0")) + data[at:]


# Rows, and weights.


_DESCRIPTIONS = (
    b"'|O'", b"'<f8'", b"'<f2'", b"'>f4'", b"'<c8'", b"'<M8[s]'", b"'|V9'", b"'<U1000000000'", b"'|S0'", b"'<f16'",
    b"'|b1'", b"'<i8'", b"[('a', '<f4'), ('b', '|O')]", b"[('a', '<f4', (9999999, 9999999))]",
)  # fmt: skip


def change_npy_header(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """Change the dtype, the order or the shape in the header of an array."""
    found = re.search(rb"\{'descr': (.*), 'fortran_order': (\w+), 'shape': \((.*?)\), \}", data)
    if found is None:
        raise ValueError("no header")
    descr, order, shape = found.groups()
    action = random.randrange(4)
    numbers = [b"%d" % random.choice(INTEGERS) for _ in range(random.choice((0, 1, 2, 2, 2, 3, 40)))]
    if action == 0:
        shape = b", ".join(numbers) + random.choice((b"", b","))
    elif action == 1:
        descr = random.choice(_DESCRIPTIONS)
    elif action == 2:
        order = random.choice((b"True", b"None", b"9"))
    else:
        shape = shape.replace(
            random.choice(re.findall(rb"\d+", shape)), random.choice((b"0", b"-1", b"9" * 20, b"1" * 10))
        )
    header = b"{'descr': %s, 'fortran_order': %s, 'shape': (%s), }" % (descr, order, shape)
    header += b" " * (len(found[0]) - len(header))
    start = found.start() - 2
    length = struct.unpack("<H", data[start : found.start()])[0] + len(header) - len(found[0])
    return data[:start] + struct.pack("<H", length % (1 << 16)) + header + data[found.end() :]


def change_zip(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """Change fields of the headers of a zip: compression, sizes, offsets, flags."""
    headers = [match.start() for match in re.finditer(rb"PK\x01\x02|PK\x03\x04|PK\x05\x06", data)]
    changed = bytearray(data)
    for at in headers if random.random() < 0.3 else [random.choice(headers)]:
        offset, width = random.choice(
            ((6, 2), (8, 2), (10, 2), (18, 4), (20, 4), (22, 4), (24, 4), (26, 2), (42, 4), (16, 4))
        )
        value = random.choice((0, 1, 9, 12, 14, 93, 99, *INTEGERS)) % (1 << 8 * width)
        changed[at + offset : at + offset + width] = value.to_bytes(width, "little")
    return bytes(changed)


def change_zip_member(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """Change the content or the name of a member of a zip, and write the zip anew with sums that are right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        members = [(name, old.read(name)) for name in old.namelist()]
    chosen = random.randrange(len(members))
    name, content = members[chosen]
    structural = STRUCTURAL[".npy" if name.endswith(".npy") else ".pkl"]
    if random.random() < 0.8:
        content = random.choice((*structural, *BYTES))(content, random, [other for _, other in members])
    else:
        name = random.choice((members[0][0], "x", *TEXTS[3:6]))
    members[chosen] = name, content
    compression = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    compression = compression if random.random() < 0.3 else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", compression) as new:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            new.writestr(info, content)
    return buffer.getvalue()


def change_safetensors(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """Change the header of a file of tensors, and its length."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.dumps(change_value(json.loads(data[8 : 8 + length]), random)).encode()
    stated = random.choice(INTEGERS) % (1 << 64) if random.random() < 0.05 else len(header)
    return struct.pack("<Q", stated) + header + data[8 + length :]


STRUCTURAL: dict[str, Sequence[Mutator]] = {
    ".json": (change_json, change_json, change_json, deep_json, double_key, change_line, change_encoding),
    ".jsonl": (change_json, change_json, deep_json, double_key, change_line, change_encoding),
    ".csv": (change_line, change_line, change_encoding),
    ".tsv": (change_line, change_line, change_encoding),
    ".txt": (change_line, change_line, change_encoding),
    ".toml": (change_line, change_line, change_encoding),
    ".tar": (change_tar_header, change_tar_header, move_tar_block, add_tar_member),
    ".pkl": (change_opcode, change_opcode, change_number, shared_lists),
    ".pt": (change_zip, change_zip_member, change_zip_member, change_zip_member),
    ".npy": (change_npy_header,),
    ".npz": (change_zip, change_zip_member),
    ".safetensors": (change_safetensors,),
}  # fmt: skip
