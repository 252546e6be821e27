"""What a pickle says, without running it: an interpreter of pickle's opcodes that makes data and calls nothing.

One decision: a name in a pickle is only ever compared, never looked up. A dozen names have a meaning that is written down here
(how NumPy and PyTorch spell an array, a dtype, a tensor, ...); any other is refused where it stands, before anything is made of
it. The price: objects of any other class cannot be read, and neither can sets, complex numbers or arrays of text.

Bytes are untrusted: each length is held against the bytes that are left before anything is allocated, arrays are views of the
bytes they came in, and what is no number in a list of numbers is counted (`MAX_OBJECTS`).
"""

import math
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from molstream.kernels.tables.pickled import read_pickled_ints
from molstream.shards.errors import SchemaError

MAX_OBJECTS = 5_000_000
"""Opcodes, but for those of whole numbers in lists of such: at some 100 bytes each, what a hostile file can make us hold."""
MAX_DEPTH = 100
"""Containers inside each other."""
MAX_DIMENSIONS = 32

ARRAY_DTYPES = {
    f"{kind}{size}" for kind, sizes in {"b": "1", "iu": "1248", "f": "248"}.items() for kind in kind for size in sizes
}
STORAGES = {
    f"torch.{name}Storage": code
    for name, code in zip(
        ("Bool", "Byte", "Char", "Short", "Int", "Long", "Half", "Float", "Double"),
        ("b1", "u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8"),
    )
}
UNTYPED_STORAGES = {"torch.storage.UntypedStorage", "torch.UntypedStorage"}
TENSOR_DTYPES = {f"torch.uint{8 * size}": f"u{size}" for size in (1, 2, 4, 8)}
"""What PyTorch names only beside an untyped storage."""


@dataclass(frozen=True, slots=True)
class Symbol:
    """A name: of a class or function in the program that wrote the file, of nothing at all here."""

    name: str


@dataclass(slots=True, eq=False)
class Dtype:
    """numpy.dtype: its code, and the byte order that its state adds."""

    code: str
    order: str = ""

    def build(self) -> np.dtype:
        return np.dtype(self.order + self.code)


@dataclass(slots=True, eq=False)
class Array:
    """numpy.ndarray, a scalar, a tensor: None until its state is read. Never compared, as a bare array in a pattern would be."""

    value: np.ndarray | np.generic | None = None


@dataclass(slots=True, eq=False)
class Storage:
    """The bytes of tensors; code is "" where the tensor has to say what they are."""

    code: str
    data: bytes


@dataclass(slots=True, eq=False)
class Items:
    """A list that may still grow: runs of whole numbers (int64 arrays) and of anything else (lists)."""

    chunks: list[np.ndarray | list] = field(default_factory=list)

    def extend(self, items: list) -> None:
        if not self.chunks or not isinstance(self.chunks[-1], list):
            self.chunks.append([])
        self.chunks[-1].extend(items)  # type: ignore[union-attr]


def decode_pickle(data: bytes, *, where: str, read_storage: Callable[[str], bytes], byte_order: str = "<") -> Any:
    """The value that a pickle of protocol 2 to 5 holds: dicts, tuples, lists, arrays, text, bytes, numbers, bools, None.

    **A list of whole numbers below 2**63 comes out as an int64 array**, an empty list too: PM6's 82 million row numbers would be
    gigabytes as a Python list. Any other list stays one. An OrderedDict comes out as a dict, a NumPy scalar as such; arrays and
    tensors come out as arrays of the dtype and byte order they were written in, not writable if they share the bytes of `data` or
    of a storage. `read_storage` gives the bytes of a storage by its key, in `byte_order`. Raises SchemaError for all else.
    """
    return _Interpreter(data, where, read_storage, byte_order).run()


def show(text: str) -> str:
    """Untrusted text for a message: one line, no control characters, at most 100 characters."""
    text = text if len(text) <= 100 else text[:97] + "..."
    return text if text.isprintable() else ascii(text)


class _Interpreter:
    def __init__(self, data: bytes, where: str, read_storage: Callable[[str], bytes], byte_order: str):
        self.data, self.where, self.read_storage, self.byte_order = data, where, read_storage, byte_order
        self.view, self.octets = memoryview(data), np.frombuffer(data, np.uint8)
        self.at = self.begin = self.num_objects = self.num_encoded = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        """Heights of the stack; nothing takes what lies below the last of them."""
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, bytes] = {}
        self.finished: dict[int, tuple[Any, Any]] = {}

    def run(self) -> Any:
        if self.data[:1] != b"\x80":
            self.fail("does not begin as a pickle of protocol 2 to 5 does")
        while True:
            self.begin = self.at
            opcode = self.take(1)[0]
            self.count(1)
            if opcode == ord("."):
                break
            step = _STEPS.get(opcode)
            if step is None:
                self.fail(
                    f"opcode {opcode:#04x} makes something that is no data, or that Python 3 does not write in protocol 2 to 5: "
                    f"only {_DATA} are read; {_INSTEAD}"
                )
            step(self)
        if self.at != len(self.data) or self.marks or len(self.stack) != 1:
            self.fail("ends with bytes or values left over")
        return self.finish(self.stack[0], 0)

    # errors and limits

    def fail(self, message: str) -> NoReturn:
        raise SchemaError(f"{self.where}, byte {self.begin}: {message}")

    def refuse(self, name: str) -> NoReturn:
        if name.startswith("torch.") and name.endswith("Storage"):
            self.fail(f"holds a {show(name)}, numbers of a type that NumPy lacks; convert the tensor and save it again")
        self.fail(f"would run {show(name)}, and what may run that may run anything: only {_DATA} are read; {_INSTEAD}")

    def refuse_call(self, name: str) -> NoReturn:
        self.fail(f"calls {show(name)} in a way that neither NumPy nor PyTorch does")

    def count(self, num: int) -> None:
        self.num_objects += num
        if self.num_objects > MAX_OBJECTS:
            self.fail(
                f"holds more than {MAX_OBJECTS:,} objects that are not whole numbers in a list of such; save arrays instead"
            )

    # bytes

    def take(self, num: int) -> memoryview:
        if num > len(self.data) - self.at:
            self.fail(f"breaks off: {num} bytes are due at byte {self.at}, {len(self.data) - self.at} are left")
        self.at += num
        return self.view[self.at - num : self.at]

    def take_int(self, num: int) -> int:
        return int.from_bytes(self.take(num), "little")

    def take_signed(self, num: int) -> int:
        return int.from_bytes(self.take(num), "little", signed=True)

    def take_text(self, num: int) -> str:
        try:
            return str(self.take(num), "utf-8")
        except UnicodeDecodeError:
            self.fail("text that is not UTF-8")

    def take_line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + 256)
        if end < 0:
            self.fail("a name without an end")
        line = self.take_text(end - self.at)
        self.at += 1
        return line

    # the stack

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        self.top()
        return self.stack.pop()

    def top(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            self.fail("takes a value where there is none")
        return self.stack[-1]

    def pop_to_mark(self) -> list:
        if not self.marks:
            self.fail("closes a container that was not opened")
        height = self.marks.pop()
        values = self.stack[height:]
        del self.stack[height:]
        return values

    def mark(self) -> None:
        """Open a container; whole numbers that are appended to a list are read at once, here."""
        above = self.stack[self.marks[-1] if self.marks else 0 :][-1:]
        if above and isinstance(above[0], Items) and self.data[self.at : self.at + 1] in _INT_OPCODES:
            ints, end = read_pickled_ints(self.octets, at=self.begin)
            if ints.size:
                above[0].chunks.append(ints)
                self.at = end
                return
        self.marks.append(len(self.stack))

    def proto(self) -> None:
        if not 2 <= self.take_int(1) <= 5:
            self.fail("does not begin as a pickle of protocol 2 to 5 does")

    def skip_frame(self) -> None:
        """How many bytes to read ahead: all are here."""
        self.take(8)

    def get(self, key: int) -> None:
        if key not in self.memo:
            self.fail(f"takes value {key} up again, which was not put down")
        self.push(self.memo[key])

    def put(self, key: int) -> None:
        self.memo[key] = self.top()

    def push_tuple(self, num: int) -> None:
        values = [self.pop() for _ in range(num)]
        self.push(tuple(values[::-1]))

    def append(self, values: list) -> None:
        target = self.top()
        if not isinstance(target, Items):
            self.fail("appends to what is no list")
        target.extend(values)

    def set_items(self, values: list) -> None:
        target = self.top()
        if not isinstance(target, dict) or len(values) % 2:
            self.fail("sets items of what is no dict, or half an item")
        for key, value in zip(values[::2], values[1::2], strict=True):
            # keys whose hash the writer cannot choose, and takes no time
            if not (key is None or isinstance(key, str) or (isinstance(key, int) and -(2**63) <= key < 2**63)):
                self.fail("a dict whose keys are not text or whole numbers below 2**63")
            target[key] = value

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    # names and what is done with them

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            self.fail("a name that is no text")
        full = f"{module}.{name}"
        if full not in _CALLS and full not in _CLASSES:
            self.refuse(full)
        self.push(Symbol(full))

    def stack_name(self) -> None:
        name, module = self.pop(), self.pop()
        self.name(module, name)

    def reduce(self) -> None:
        args, function = self.pop(), self.pop()
        name = function.name if isinstance(function, Symbol) else type(function).__name__
        call = _CALLS.get(name)
        if call is None or not isinstance(function, Symbol) or not isinstance(args, tuple):
            self.refuse_call(name)
        self.push(call(self, name, args))

    def set_state(self) -> None:
        state, target = self.pop(), self.top()
        match target, state:
            case Dtype(order=""), (3, "<" | ">" | "|" as order, None, None, None, int(), int(), int()):
                target.order = order
            case Array(value=None), (1, tuple(shape), Dtype() as dtype, bool(fortran), bytes() | memoryview() as raw):
                target.value = self.array(dtype.build(), shape, raw, fortran)
            case _:
                self.fail("sets the state of what is no array, or an array's state in a way that NumPy does not")

    def storage(self) -> None:
        match self.pop():
            case ("storage", Symbol(name), str(key), str(), int(size)) if name in STORAGES or name in UNTYPED_STORAGES:
                code = STORAGES.get(name, "")
            case _:
                self.fail("refers to something beside the pickle that is no storage of a tensor")
        if key not in self.storages:
            self.storages[key] = self.read_storage(key)
        data = self.storages[key]
        if size * np.dtype(code or "u1").itemsize != len(data):
            self.fail(f"storage {show(key)} has {len(data)} bytes, expected {size} numbers of {show(name)}")
        self.push(Storage(code, data))

    def shape(self, shape: tuple) -> tuple[int, ...]:
        if len(shape) > MAX_DIMENSIONS or not all(type(size) is int and 0 <= size < 2**62 for size in shape):
            self.fail("an array whose shape is none")
        if math.prod(size or 1 for size in shape) >= 2**59:
            self.fail("an array too large for its bytes")
        return shape

    def array(self, dtype: np.dtype, shape: tuple, raw: bytes | memoryview, fortran: bool) -> np.ndarray:
        if math.prod(self.shape(shape)) * dtype.itemsize != len(raw):
            self.fail(f"an array of {math.prod(shape)} numbers of {dtype.itemsize} bytes in {len(raw)} bytes")
        return np.ndarray(shape, dtype, raw, order="F" if fortran else "C")

    def encode(self, name: str, args: tuple) -> bytes:
        """_codecs.encode(text, 'latin1'): how protocol 2 writes bytes."""
        match args:
            case (str(text), "latin1"):
                # a text is encoded once, so all of them together are no more than the file
                self.num_encoded += len(text)
                if self.num_encoded <= len(self.data):
                    with suppress(UnicodeEncodeError):
                        return text.encode("latin-1")
        self.refuse_call(name)

    def empty_bytes(self, name: str, args: tuple) -> bytes:
        return b"" if args == () else self.refuse_call(name)

    def empty_dict(self, name: str, args: tuple) -> dict:
        return {} if args == () else self.refuse_call(name)

    def dtype(self, name: str, args: tuple) -> Dtype:
        match args:
            case (str(code), int(), int()) if code in ARRAY_DTYPES:
                return Dtype(code)
            case (str(code), int(), int()):
                what = "Python objects" if code.startswith("O") else f"dtype {show(code)}"
                self.fail(f"an array of {what}: only whole numbers, floats and bools are read from it; {_INSTEAD}")
        self.refuse_call(name)

    def new_array(self, name: str, args: tuple) -> Array:
        match args:
            case (Symbol("numpy.ndarray"), (0,), bytes() | memoryview()):
                return Array()
        self.refuse_call(name)

    def array_of_buffer(self, name: str, args: tuple) -> Array:
        """numpy's _frombuffer: how protocol 5 writes an array."""
        match args:
            case (bytes() | memoryview() as raw, Dtype() as dtype, tuple(shape), "C" | "F" as order):
                return Array(self.array(dtype.build(), shape, raw, order == "F"))
        self.refuse_call(name)

    def scalar(self, name: str, args: tuple) -> Array:
        match args:
            case (Dtype() as dtype, bytes() | memoryview() as raw):
                return Array(self.array(dtype.build(), (), raw, False)[()])
        self.refuse_call(name)

    def tensor(self, name: str, args: tuple) -> Array:
        """_rebuild_tensor_v2(storage, offset, size, stride, ...), all in numbers, not bytes; v3 says the dtype as well."""
        match args:
            case (Storage() as storage, int(first), tuple(size), tuple(stride), bool(), dict(), *rest):
                code = storage.code
            case _:
                self.refuse_call(name)
        if not code:
            code = TENSOR_DTYPES.get(rest[0].name, "") if rest and isinstance(rest[0], Symbol) else ""
        if not code or len(size) != len(stride) or not all(type(step) is int for step in stride):
            self.refuse_call(name)
        dtype = np.dtype(self.byte_order + code)
        num, held = math.prod(self.shape(size)), len(storage.data) // dtype.itemsize
        if not num:
            return Array(np.empty(size, dtype))
        stride = tuple(step if length > 1 else 0 for length, step in zip(size, stride, strict=True))
        last = first + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if min(first, *stride, 0) < 0 or max(num, last + 1) > held:
            self.fail(f"a tensor of {num} numbers that reaches to number {last} of a storage of {held}; save it contiguous")
        steps = [step * dtype.itemsize for step in stride]
        return Array(np.ndarray(size, dtype, storage.data, first * dtype.itemsize, steps))

    # what comes out

    def finish(self, value: Any, depth: int) -> Any:
        """The value with its lists as lists or arrays; each container once, however often it is referred to."""
        if not isinstance(value, Items | dict | tuple | memoryview):
            if isinstance(value, Array) and value.value is not None:
                return value.value
            if isinstance(value, Array | Dtype | Storage | Symbol):
                what = show(value.name) if isinstance(value, Symbol) else f"a bare {type(value).__name__.lower()}"
                self.fail(f"holds {what}, which is no data; {_INSTEAD}")
            return value
        if depth == MAX_DEPTH:
            self.fail(f"containers inside each other more than {MAX_DEPTH} deep, or one in itself")
        if id(value) not in self.finished:
            made: Any
            if isinstance(value, Items):
                made = self.finish_list(value, depth)
            elif isinstance(value, tuple):
                made = tuple([self.finish(item, depth + 1) for item in value])
            elif isinstance(value, memoryview):
                made = bytes(value)
            else:
                made = {key: self.finish(item, depth + 1) for key, item in value.items()}
            # the value is kept so that its id stays its own
            self.finished[id(value)] = (value, made)
        return self.finished[id(value)][1]

    def finish_list(self, value: Items, depth: int) -> np.ndarray | list:
        runs = [chunk if isinstance(chunk, np.ndarray) else _int_array(chunk) for chunk in value.chunks]
        if all(run is not None for run in runs):
            return runs[0] if len(runs) == 1 else np.concatenate([np.empty(0, np.int64), *runs])  # type: ignore[list-item, return-value]
        items: list = []
        for chunk in value.chunks:
            self.count(len(chunk))
            items += chunk.tolist() if isinstance(chunk, np.ndarray) else [self.finish(item, depth + 1) for item in chunk]
        return items


def _int_array(items: list) -> np.ndarray | None:
    if not all(type(item) is int for item in items):
        return None
    try:
        return np.array(items, np.int64)
    except OverflowError:
        return None


_DATA = "dicts, lists, tuples, text, numbers, arrays and tensors of numbers"
_INSTEAD = "if you trust the file, load it where it was made and save the arrays alone, for example with numpy.savez"
_INT_OPCODES = (b"J", b"K", b"M", b"\x8a", b"\x95")

_CALLS: dict[str, Callable[[_Interpreter, str, tuple], Any]] = {
    "numpy.dtype": _Interpreter.dtype,
    "_codecs.encode": _Interpreter.encode,
    "__builtin__.bytes": _Interpreter.empty_bytes,
    "builtins.bytes": _Interpreter.empty_bytes,
    "collections.OrderedDict": _Interpreter.empty_dict,
    "torch._utils._rebuild_tensor_v2": _Interpreter.tensor,
    "torch._utils._rebuild_tensor_v3": _Interpreter.tensor,
}
for _core in ("numpy.core", "numpy._core"):
    _CALLS[f"{_core}.multiarray._reconstruct"] = _Interpreter.new_array
    _CALLS[f"{_core}.multiarray.scalar"] = _Interpreter.scalar
    _CALLS[f"{_core}.numeric._frombuffer"] = _Interpreter.array_of_buffer
_CLASSES = {"numpy.ndarray", *STORAGES, *UNTYPED_STORAGES, *TENSOR_DTYPES}

_STEPS: dict[int, Callable[[_Interpreter], None]] = {
    # pickletools.opcodes describes each
    0x80: _Interpreter.proto,
    0x95: _Interpreter.skip_frame,
    ord("N"): lambda p: p.push(None),
    0x88: lambda p: p.push(True),
    0x89: lambda p: p.push(False),
    ord("K"): lambda p: p.push(p.take_int(1)),
    ord("M"): lambda p: p.push(p.take_int(2)),
    ord("J"): lambda p: p.push(p.take_signed(4)),
    0x8A: lambda p: p.push(p.take_signed(p.take_int(1))),
    ord("G"): lambda p: p.push(struct.unpack(">d", p.take(8))[0]),
    0x8C: lambda p: p.push(p.take_text(p.take_int(1))),
    ord("X"): lambda p: p.push(p.take_text(p.take_int(4))),
    0x8D: lambda p: p.push(p.take_text(p.take_int(8))),
    ord("C"): lambda p: p.push(p.take(p.take_int(1))),
    ord("B"): lambda p: p.push(p.take(p.take_int(4))),
    0x8E: lambda p: p.push(p.take(p.take_int(8))),
    0x96: lambda p: p.push(p.take(p.take_int(8))),
    ord("("): _Interpreter.mark,
    ord(")"): lambda p: p.push(()),
    0x85: lambda p: p.push_tuple(1),
    0x86: lambda p: p.push_tuple(2),
    0x87: lambda p: p.push_tuple(3),
    ord("t"): lambda p: p.push(tuple(p.pop_to_mark())),
    ord("]"): lambda p: p.push(Items()),
    ord("a"): lambda p: p.append([p.pop()]),
    ord("e"): lambda p: p.append(p.pop_to_mark()),
    ord("}"): lambda p: p.push({}),
    ord("s"): _Interpreter.set_item,
    ord("u"): lambda p: p.set_items(p.pop_to_mark()),
    ord("q"): lambda p: p.put(p.take_int(1)),
    ord("r"): lambda p: p.put(p.take_int(4)),
    0x94: lambda p: p.put(len(p.memo)),
    ord("h"): lambda p: p.get(p.take_int(1)),
    ord("j"): lambda p: p.get(p.take_int(4)),
    ord("c"): lambda p: p.name(p.take_line(), p.take_line()),
    0x93: _Interpreter.stack_name,
    ord("i"): lambda p: p.refuse(f"{p.take_line()}.{p.take_line()}"),
    ord("R"): _Interpreter.reduce,
    ord("b"): _Interpreter.set_state,
    ord("Q"): _Interpreter.storage,
}
