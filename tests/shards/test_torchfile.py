"""Files of the real torch.save come back as they were; whatever else a file is or wants is a SchemaError, and nothing has run."""

import collections
import fractions
import io
import os
import pickle
import re
import struct
import time
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from molstream.shards.errors import InputError, SchemaError
from molstream.shards.splits.pickled import MAX_OBJECTS, decode_pickle
from molstream.shards.splits.torchfile import read_torch_file

PROTOCOLS = [2, 3, 4, 5]
RUNS = "only dicts, lists, tuples, text, numbers, arrays and tensors of numbers are read; if you trust the file, load it where"


def saved(value, protocol=2) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, pickle_protocol=protocol)
    return file.getvalue()


def repacked(data: bytes, changes: dict[str, bytes | None], others: dict[str, bytes] | None = None, **options) -> bytes:
    """The same zip with other entries: {name without its root: content, or None to leave it out}, and those of other roots."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w", **options) as new:
        contents = {name: old.read(name) for name in old.namelist()}
        changed = {f"archive/{name}": content for name, content in changes.items()}
        for name, content in (contents | changed | (others or {})).items():
            if content is not None:
                new.writestr(name, content)
    return file.getvalue()


def with_pickle(data: bytes) -> bytes:
    return repacked(saved({}), {"data.pkl": data})


def read(data: bytes):
    return read_torch_file(data, where="x.pt")


def unpickle(data: bytes):
    return decode_pickle(data, where="x", read_storage=lambda key: b"")


def same(a, b) -> bool:
    """Equal, with lists of whole numbers as int64 arrays, tensors as arrays, and OrderedDicts as dicts."""
    if isinstance(b, torch.Tensor):
        b = b.numpy()
    if isinstance(b, list) and all(type(x) is int and -(2**63) <= x < 2**63 for x in b):
        b = np.array(b, np.int64)
    if isinstance(b, dict):
        return type(a) is dict and list(a) == list(b) and all(same(a[k], b[k]) for k in b)
    if isinstance(b, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(b, np.ndarray):
        return isinstance(a, np.ndarray) and (a.dtype, a.shape) == (b.dtype, b.shape) and np.array_equal(a, b, equal_nan=True)
    return type(a) is type(b) and a == b


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    """Kernels are compiled before anything is timed."""
    assert unpickle(pickle.dumps([1, 2], 2)).tolist() == [1, 2]


# what is read

SPLITS = [
    {"train": [5, 70_000, 2, 2**40, -1], "val": [300], "test": []},
    {"train": np.array([5, 1], np.int32), "val": np.array([2**40], np.int64), "test": np.empty(0, np.int64)},
    {"train": torch.tensor([5, 1]), "val": torch.tensor([3], dtype=torch.int32), "test": torch.empty(0, dtype=torch.int64)},
    collections.OrderedDict(a=collections.OrderedDict(b=[1, 2], c={"d": collections.OrderedDict()}), e=[[1], [2, 3], []]),
    {
        "mixed": [1, 2.5, "x", None, True, (1, 2), [3], 2**63],
        3: b"bytes\xff",
        None: (),
        "é": "\u4f60",
        "big": [2**100, -(2**100)],
    },
    (np.float32(2.5), np.int64(-3), np.bool_(True), 1e300, -1, 2**63, "", b""),
]
ARRAYS = [
    np.arange(24).astype(dtype).reshape(2, 3, 4)
    for dtype in ("?", "i1", "u1", "i2", "u2", "<i4", ">i4", "u4", "i8", "u8", "f2", "f4", "f8")
]
TENSORS = [
    torch.arange(24, dtype=dtype).reshape(2, 3, 4)
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.float32, torch.float64)
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("value", SPLITS, ids=["lists", "arrays", "tensors", "ordered", "mixed", "scalars"])
def test_what_torch_saves_is_read(value, protocol):
    assert same(read(saved(value, protocol)), value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_of_every_type_of_number_keep_type_order_and_shape(protocol):
    fortran = [np.asfortranarray(array) for array in ARRAYS]
    strided = [array[:, ::2, ::-1] for array in ARRAYS]
    value = [*ARRAYS, *fortran, *strided, np.array(3), np.empty((0, 3)), np.empty((2, 0, 3), np.int8)]
    assert same(read(saved(value, protocol)), value)


@pytest.mark.parametrize("protocol", [2, 4])
def test_tensors_of_every_type_of_number_keep_type_strides_and_shape(protocol):
    some = torch.arange(24)
    views = [some[3:9], some.reshape(4, 6).T, some[::5], some.reshape(2, 12)[1, 2:4], torch.tensor(7), torch.empty(0, 3)]
    others = [torch.tensor([True, False])] + [torch.arange(3).to(getattr(torch, f"uint{bits}")) for bits in (16, 32, 64)]
    value = [*TENSORS, *views, *others]
    assert same(read(saved(value, protocol)), value)


@pytest.mark.parametrize("name", ["numpy.core", "numpy._core"])
def test_arrays_of_numpy_1_and_2_are_read(name):
    data = pickle.dumps([np.arange(3), np.float64(2)], 2)
    data = data.replace(b"numpy._core.", b"numpy.core.").replace(b"numpy.core.", f"{name}.".encode())
    assert name.encode() in data
    assert same(unpickle(data), [np.arange(3), np.float64(2)])


@given(numbers=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=30), protocol=st.integers(2, 5))
@settings(deadline=None, max_examples=50)
def test_lists_of_whole_numbers_are_int64_arrays(numbers, protocol):
    assert same(unpickle(pickle.dumps(numbers, protocol)), numbers)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(-(2**63), 2**63 - 1), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(value=VALUES, protocol=st.integers(2, 5))
@settings(deadline=None)
def test_whatever_python_pickles_of_plain_data_is_read(value, protocol):
    # text of lone surrogates is none
    assert same(unpickle(pickle.dumps(value, protocol)), value)


@pytest.mark.parametrize("protocol", [2, 4])
def test_long_lists_are_read_across_batches_and_frames_and_quickly(protocol):
    numbers = list(range(0, 600_002, 2))
    data = pickle.dumps({"a": numbers, "b": [*numbers[:5000], "x"], "c": [2**70, *numbers[:3000]]}, protocol)
    started = time.perf_counter()
    found = unpickle(data)
    assert time.perf_counter() - started < 2
    assert same(found, {"a": numbers, "b": [*numbers[:5000], "x"], "c": [2**70, *numbers[:3000]]})


def test_one_list_in_two_places_is_one_array():
    numbers = [1, 2, 3]
    found = read(saved({"a": numbers, "b": numbers, "c": (numbers,)}))
    assert found["a"] is found["b"] is found["c"][0]


def test_tensors_of_one_storage_are_views_of_one_array():
    some = torch.arange(6)
    found = read(saved([some, some[2:]]))
    assert np.shares_memory(*found)
    assert not found[0].flags.writeable


def test_a_tensor_of_the_other_byte_order_is_read_as_what_it_says():
    data = saved({"a": torch.tensor([1, 2**40])})
    swapped = repacked(data, {"byteorder": b"big", "data/0": np.array([1, 2**40], ">i8").tobytes()})
    assert read(swapped)["a"].tolist() == [1, 2**40]
    older = repacked(data, {"byteorder": None})
    assert read(older)["a"].tolist() == [1, 2**40]


def test_a_path_a_file_and_bytes_are_the_same(tmp_path):
    data = saved(SPLITS[0])
    (tmp_path / "a.pt").write_bytes(data)
    with open(tmp_path / "a.pt", "rb") as file:
        sources = [str(tmp_path / "a.pt"), tmp_path / "a.pt", file, data, bytearray(data), memoryview(data)]
        assert all(same(read_torch_file(source, where="a.pt"), SPLITS[0]) for source in sources)
    with pytest.raises(InputError, match=r"^b\.pt: cannot be read: No such file or directory$"):
        read_torch_file(tmp_path / "b.pt", where="b.pt")


# what is refused, and did not run


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function, *args):
        self.reduced = (function, args)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, "posix.system"), (eval, "__builtin__.eval|builtins.eval"), (exec, "__builtin__.exec|builtins.exec")],
    ids=["system", "eval", "exec"],
)
def test_a_file_that_runs_something_is_refused_and_runs_nothing(tmp_path, monkeypatch, protocol, function, name):
    monkeypatch.chdir(tmp_path)
    call = "touch ran" if function is os.system else "open('ran', 'w').close()"
    data = saved({"train": [1, 2, 3], "val": Call(function, call)}, protocol)
    with pytest.raises(SchemaError, match=rf"^x\.pt, archive/data\.pkl, byte \d+: would run ({name}), and what may .*: {RUNS}"):
        read(data)
    assert not (tmp_path / "ran").exists()
    # what it would have done
    torch.load(io.BytesIO(data), weights_only=False)
    assert (tmp_path / "ran").exists()


def test_a_name_that_is_put_together_from_text_is_refused_and_runs_nothing(tmp_path):
    ran = tmp_path / "ran"
    head, tail = b"\x80\x02", b"X\x05\x00\x00\x00touch\x85R."
    for body in (b"cos\nsystem\n", b"cposix\nsystem\n", b"X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93"):
        with pytest.raises(SchemaError, match=r"byte \d+: would run (os|posix)\.system, and what may run that may run anything"):
            unpickle(head + body + tail)
    with pytest.raises(SchemaError, match=r"byte \d+: would run os\.system"):
        unpickle(head + b"(X\x05\x00\x00\x00touchios\nsystem\n.")
    assert not ran.exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            np.array([1, "a", None], object),
            "an array of Python objects: only whole numbers, floats and bools are read from it; if you",
        ),
        (np.array(["a", "bc"]), "an array of dtype U2: only whole numbers"),
        (np.array([1j]), "an array of dtype c16: only whole numbers"),
        (np.array(["2020-01-01"], "M8[D]"), "an array of dtype M8: only whole numbers"),
        (np.zeros(2, [("a", "i4")]), "an array of dtype V4: only whole numbers"),
        (np.ma.array([1]), r"would run numpy\.ma\.\w+\._mareconstruct"),
        (fractions.Fraction(1, 2), r"would run fractions\.Fraction"),
        (collections.Counter("a"), r"would run collections\.Counter"),
        (collections.defaultdict(list), r"would run collections\.defaultdict"),
        (1j, r"would run (__builtin__|builtins)\.complex"),
        (range(3), r"would run (__builtin__|builtins)\.(xrange|range)"),
        ({1, 2}, r"would run __builtin__\.set|opcode 0x8f makes something that is no data"),
        (torch.nn.Parameter(torch.zeros(2)), r"would run torch\._utils\._rebuild_parameter"),
        (
            torch.zeros(2, dtype=torch.bfloat16),
            r"holds a torch\.BFloat16Storage, numbers of a type that NumPy lacks; convert the tensor",
        ),
        (torch.zeros(2, dtype=torch.complex64), r"holds a torch\.ComplexFloatStorage, numbers of a type that NumPy lacks"),
        (torch.zeros(2).to_sparse(), r"would run torch\._utils\._rebuild_sparse_tensor"),
        (torch.zeros(1).expand(5), "a tensor of 5 numbers that reaches to number 0 of a storage of 1; save it contiguous"),
        (torch.zeros(2).untyped_storage(), "holds a bare storage, which is no data"),
        (np.ndarray, r"holds numpy\.ndarray, which is no data"),
        (np.dtype("i4"), "holds a bare dtype, which is no data"),
        ({(1, 2): 3}, r"a dict whose keys are not text or whole numbers below 2\*\*63"),
        ({2**63: 3}, r"a dict whose keys are not text or whole numbers below 2\*\*63"),
        ({b"a": 3}, r"a dict whose keys are not text or whole numbers below 2\*\*63"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_what_is_no_data_is_refused_and_named(value, message, protocol):
    with pytest.raises(SchemaError, match=rf"^x\.pt, archive/data\.pkl, byte \d+: ({message})") as caught:
        read(saved({"train": value}, protocol))
    assert "\n" not in str(caught.value)


def test_a_value_in_itself_or_too_deep_is_refused():
    loop: list = []
    loop.append(loop)
    deep: object = 1
    for _ in range(100):
        deep = [deep]
    assert same(unpickle(pickle.dumps(deep, 2)), deep)
    deep = (deep,)
    table: dict = {}
    table["a"] = table
    for value in (loop, deep, table):
        with pytest.raises(SchemaError, match="containers inside each other more than 100 deep, or one in itself"):
            unpickle(pickle.dumps(value, 2))
    with pytest.raises(SchemaError, match="containers inside each other more than 100 deep"):
        unpickle(b"\x80\x02" + b"]" * 300_000 + b"a" * 299_999 + b".")
    with pytest.raises(SchemaError, match="containers inside each other more than 100 deep"):
        unpickle(b"\x80\x02)" + b"\x85" * 300_000 + b".")


def text(content: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(content)) + content


LATIN = text(b"latin1")
DTYPE = b"cnumpy\ndtype\nX\x02\x00\x00\x00i8\x89\x88\x87R(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
NEW = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
SCALAR = b"cnumpy.core.multiarray\nscalar\n"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "breaks off: 1 bytes are due at byte 2, 0 are left"),
        (b"K", "breaks off: 1 bytes are due at byte 3, 0 are left"),
        (b"X\xff\xff\xff\xffab.", "breaks off: 4294967295 bytes are due at byte 7, 3 are left"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fab.", "breaks off: 9223372036854775807 bytes are due"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffab.", "breaks off: 18446744073709551615 bytes are due"),
        (b"X\x01\x00\x00\x00\xff.", "text that is not UTF-8"),
        (b"X\x03\x00\x00\x00\xed\xa0\x80.", "text that is not UTF-8"),
        (b".", "ends with bytes or values left over"),
        (b"NN.", "ends with bytes or values left over"),
        (b"N.N", "ends with bytes or values left over"),
        (b"(N.", "ends with bytes or values left over"),
        (b"h\x07.", "takes value 7 up again, which was not put down"),
        (b"j\xff\xff\xff\xff.", "takes value 4294967295 up again"),
        (b"q\x00.", "takes a value where there is none"),
        (b"\x85.", "takes a value where there is none"),
        (b"N(\x85.", "takes a value where there is none"),
        (b"a.", "takes a value where there is none"),
        (b"e.", "closes a container that was not opened"),
        (b"t.", "closes a container that was not opened"),
        (b"Na.", "takes a value where there is none"),
        (b"NNa.", "appends to what is no list"),
        (b"](K\x01a.", "takes a value where there is none"),
        (b"](K\x01u.", "sets items of what is no dict, or half an item"),
        (b"}(K\x01u.", "sets items of what is no dict, or half an item"),
        (b"}NK\x01e.", "closes a container"),
        (b"NNR.", "calls NoneType in a way that neither NumPy nor PyTorch does"),
        (b"cnumpy\nndarray\n)R.", r"calls numpy\.ndarray in a way"),
        (b"cnumpy\ndtype\n)R.", r"calls numpy\.dtype in a way"),
        (b"c_codecs\nencode\n" + text(b"a") + text(b"utf-7") + b"\x86R.", r"calls _codecs\.encode in a way"),
        (b"c_codecs\nencode\n" + text("你".encode()) + LATIN + b"\x86R.", r"calls _codecs\.encode in a way"),
        (b"c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R.", r"calls __builtin__\.bytes in a way"),
        (b"ccollections\nOrderedDict\nK\x01\x85R.", r"calls collections\.OrderedDict in a way"),
        (b"c" + b"a" * 300 + b"\nb\n.", "a name without an end"),
        (b"NN\x93.", "a name that is no text"),
        (text(b"a\nb") + text(b"\x1b[31m") + b"\x93.", r"would run 'a\\nb\.\\x1b\[31m', and what"),
        (b"NNb.", "sets the state of what is no array"),
        (DTYPE + b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb.", "sets the state of what is no array"),
        (NEW + b".", "holds a bare array, which is no data"),
        (NEW + b"(K\x01K\x02\x85" + DTYPE + b"\x89C\x08abcdefghtb.", "an array of 2 numbers of 8 bytes in 8 bytes"),
        (
            NEW + b"(K\x01\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01\x85" + DTYPE + b"\x89C\x00tb.",
            "an array whose shape is none",
        ),
        (NEW + b"(K\x01J\xff\xff\xff\xff\x85" + DTYPE + b"\x89C\x00tb.", "an array whose shape is none"),
        (
            NEW + b"(K\x01K\x00J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x87" + DTYPE + b"\x89C\x00tb.",
            "an array too large for its bytes",
        ),
        (NEW + b"(K\x01(" + b"K\x01" * 33 + b"t" + DTYPE + b"\x89C\x08abcdefghtb.", "an array whose shape is none"),
        (SCALAR + DTYPE + b"C\x09abcdefghi\x86R.", "an array of 1 numbers of 8 bytes in 9 bytes"),
        (SCALAR + DTYPE + b"C\x04abcd\x86R.", "an array of 1 numbers of 8 bytes in 4 bytes"),
        (b"NQ.", "refers to something beside the pickle that is no storage of a tensor"),
        (b"\x82\x01.", "opcode 0x82 makes something that is no data"),
        (b"cnumpy\nndarray\n)\x81.", "opcode 0x81 makes something that is no data"),
        (b"I5\n.", "opcode 0x49 makes something that is no data, or that Python 3 does not write in protocol 2 to 5"),
        (b"\x80\x09N.", "does not begin as a pickle of protocol 2 to 5 does"),
    ],
)
def test_opcodes_that_say_nothing_are_refused(body, message):
    with pytest.raises(SchemaError, match=rf"^x, byte \d+: {message}"):
        unpickle(b"\x80\x02" + body)


def test_a_pickle_of_an_old_or_no_protocol_is_refused():
    for data in (b"", b"(dp0\n.", b"\x80\x06N.", b"\x80\x01N."):
        with pytest.raises(SchemaError, match="does not begin as a pickle of protocol 2 to 5 does"):
            unpickle(data)


def test_more_objects_than_a_file_of_numbers_has_are_refused_quickly(monkeypatch):
    monkeypatch.setattr("molstream.shards.splits.pickled.MAX_OBJECTS", 1000)
    with pytest.raises(
        SchemaError, match="holds more than 1,000 objects that are not whole numbers in a list of such; save arrays"
    ):
        unpickle(b"\x80\x02(" + b"]" * 1000 + b"t.")
    with pytest.raises(SchemaError, match="holds more than 1,000 objects"):
        unpickle(pickle.dumps([*range(1000), None], 2))
    assert unpickle(pickle.dumps(list(range(100_000)), 2)).size == 100_000
    assert MAX_OBJECTS == 5_000_000


def test_one_text_is_not_encoded_again_and_again():
    # a thousand times a text of a megabyte would be a gigabyte
    big = text(b"a" * 2**20) + b"q\x00"
    again = b"c_codecs\nencode\nh\x00" + LATIN + b"\x86R"
    with pytest.raises(SchemaError, match=r"calls _codecs\.encode in a way that neither NumPy nor PyTorch does"):
        unpickle(b"\x80\x02(" + big + again * 1000 + b"t.")


def test_values_that_share_parts_take_the_time_of_their_parts():
    # 2**60 leaves if each were visited; and bytes that are kept once, however often they are taken
    body = b"]q\x00" + b"".join(b"h%c h%c\x86q%c".replace(b" ", b"") % (k, k, k + 1) for k in range(60))
    started = time.perf_counter()
    value = unpickle(b"\x80\x02(" + body + b"t.")[-1]
    many = unpickle(b"\x80\x02(B" + struct.pack("<I", 2**20) + bytes(2**20) + b"q\x00" + b"h\x00" * 5000 + b"t.")
    assert time.perf_counter() - started < 2
    for _ in range(60):
        value = value[0]
    assert value.size == 0
    assert len({id(item) for item in many}) == 1


# zips


def test_a_file_of_another_kind_is_refused_with_what_to_do():
    old = io.BytesIO()
    torch.save({"a": [1]}, old, _use_new_zipfile_serialization=False)
    for data in (old.getvalue(), pickle.dumps([1]), b"", b"PK"):
        with pytest.raises(
            SchemaError, match=r"^x\.pt: not a file of torch\.save: begins with b.*load it where it was made and save it ag"
        ):
            read(data)


def test_a_damaged_zip_is_refused():
    data = saved({"a": [1]})
    with pytest.raises(SchemaError, match=r"^x\.pt: a damaged zip: File is not a zip file"):
        read(data[:-30])
    at = data.index(b"}q\x00")
    with pytest.raises(SchemaError, match=r"^x\.pt: zip entry archive/data\.pkl is damaged: Bad CRC-32"):
        read(data[:at] + b"N" + data[at + 1 :])


def test_entries_that_are_compressed_twice_missing_or_too_long_are_refused():
    data = saved({"a": torch.arange(3)})
    with pytest.raises(
        SchemaError, match=r"^x\.pt: zip entry archive/data\.pkl is compressed or encrypted, which torch\.save never does"
    ):
        read(repacked(data, {}, compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(SchemaError, match=r"^x\.pt: not a file of torch\.save: a zip with 0 entries \*/data\.pkl, expected one"):
        read(repacked(data, {"data.pkl": None}))
    with pytest.raises(SchemaError, match=r"^x\.pt: not a file of torch\.save: a zip with 2 entries \*/data\.pkl, expected one"):
        read(repacked(data, {}, others={"other/data.pkl": b""}))
    with pytest.raises(SchemaError, match=r"^x\.pt: the pickle refers to archive/data/0, which is not in the zip"):
        read(repacked(data, {"data/0": None}))
    with pytest.raises(SchemaError, match=r"byte \d+: storage 0 has 16 bytes, expected 3 numbers of torch\.LongStorage"):
        read(repacked(data, {"data/0": bytes(16)}))
    with pytest.raises(SchemaError, match=r"byte \d+: storage 0 has 32 bytes, expected 3 numbers of torch\.LongStorage"):
        read(repacked(data, {"data/0": bytes(32)}))
    with pytest.raises(SchemaError, match=r"^x\.pt: byte order .*middle.*, expected little or big"):
        read(repacked(data, {"byteorder": b"middle"}))


def test_an_entry_that_is_there_twice_is_refused():
    file = io.BytesIO(saved({"a": [1]}))
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("archive/data.pkl", b"\x80\x02N.")
    with pytest.raises(SchemaError, match=r"^x\.pt: zip entry archive/data\.pkl is there twice"):
        read(file.getvalue())


def test_entries_that_overlap_are_refused():
    data = bytearray(repacked(saved({"a": torch.arange(1000)}), {"data/0": bytes(8000)}))
    # every entry of the directory names all bytes of the largest
    for match in re.finditer(b"PK\x01\x02", bytes(data)):
        data[match.start() + 20 : match.start() + 28] = struct.pack("<II", 8000, 8000)
    with pytest.raises(SchemaError, match=r"^x\.pt: zip entries of \d+ bytes in a file of \d+"):
        read(bytes(data))


def tensor_pickle(first: bytes, size: bytes, stride: bytes) -> bytes:
    """A tensor of a storage of three int64, the numbers as opcodes."""
    storage = b"(" + text(b"storage") + b"ctorch\nLongStorage\n" + text(b"0") + text(b"cpu") + b"K\x03tQ"
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + first + size + stride + b"\x89}tR."


@pytest.mark.parametrize(
    ("first", "size", "stride", "message"),
    [
        (b"K\x01", b"K\x03\x85", b"K\x01\x85", "a tensor of 3 numbers that reaches to number 3 of a storage of 3"),
        (b"K\x00", b"K\x02\x85", b"K\x03\x85", "a tensor of 2 numbers that reaches to number 3 of a storage of 3"),
        (b"J\xff\xff\xff\xff", b"K\x02\x85", b"K\x01\x85", "a tensor of 2 numbers"),
        (b"K\x02", b"K\x02\x85", b"J\xff\xff\xff\xff\x85", "a tensor of 2 numbers"),
        (b"K\x00", b"J\xff\xff\xff\x7f\x85", b"K\x00\x85", "a tensor of 2147483647 numbers that reaches to number 0"),
        (b"K\x00", b"J\xff\xff\xff\xff\x85", b"K\x00\x85", "an array whose shape is none"),
        (b"K\x00", b"K\x02\x85", b"K\x01K\x01\x86", r"calls torch\._utils\._rebuild_tensor_v2 in a way"),
        (b"K\x00", b"K\x02\x85", b"N\x85", r"calls torch\._utils\._rebuild_tensor_v2 in a way"),
        (b"N", b"K\x02\x85", b"K\x01\x85", r"calls torch\._utils\._rebuild_tensor_v2 in a way"),
    ],
)
def test_a_tensor_that_leaves_its_storage_is_refused(first, size, stride, message):
    storage = np.arange(3).tobytes()
    valid = tensor_pickle(b"K\x00", b"K\x03\x85", b"K\x01\x85")
    assert decode_pickle(valid, where="x", read_storage=lambda key: storage).tolist() == [0, 1, 2]
    with pytest.raises(SchemaError, match=message):
        decode_pickle(tensor_pickle(first, size, stride), where="x", read_storage=lambda key: storage)


# anything at all

VALID = saved(
    {
        "l": [1, 2, 300, 70_000, 2**40],
        "a": np.arange(5, dtype=np.int32),
        "t": torch.arange(4).reshape(2, 2),
        "s": ("x", 1.5, None),
    }
)
VALID_4 = saved(collections.OrderedDict(l=list(range(50)), a=np.arange(5.0), b=np.float32(1), t=torch.zeros(3)), 4)


def message_of(data: bytes, function=read) -> str:
    """The refusal; nothing for a value. Any other exception is the test's failure, and so is a second."""
    started, message = time.perf_counter(), ""
    try:
        function(data)
    except SchemaError as error:
        message = str(error)
    assert time.perf_counter() - started < 5
    return message


@given(data=st.data(), valid=st.sampled_from([VALID, VALID_4]))
@settings(deadline=None, max_examples=300)
def test_any_flipped_bits_and_truncations_of_a_file_are_a_value_or_a_refusal(data, valid):
    changed = bytearray(valid)
    for at in data.draw(st.lists(st.integers(0, len(valid) * 8 - 1), max_size=3)):
        changed[at // 8] ^= 1 << at % 8
    stop = data.draw(st.integers(0, len(valid)) | st.just(len(valid)))
    assert "\n" not in message_of(bytes(changed[:stop]))


@given(data=st.data(), valid=st.sampled_from([VALID, VALID_4]))
@settings(deadline=None, max_examples=500)
def test_any_changed_pickle_in_a_sound_zip_is_a_value_or_a_refusal(data, valid):
    """The checksum of the zip keeps most flips from the interpreter: here they get there."""
    with zipfile.ZipFile(io.BytesIO(valid)) as archive:
        pickled = bytearray(archive.read("archive/data.pkl"))
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, len(pickled) - 1), st.integers(0, 255)), max_size=3)):
        pickled[at] = byte
    stop = data.draw(st.integers(0, len(pickled)) | st.just(len(pickled)))
    assert "\n" not in message_of(repacked(valid, {"data.pkl": bytes(pickled[:stop])}))


OPCODES = [
    *(bytes([code]) for code in b"NKMJGXCB()]t}aesuqrhjcRbQi.\x80\x85\x86\x87\x88\x89\x8a\x8c\x8d\x8e\x93\x94\x95\x96"),
    *(b"K\x01", b"K\x00", b"](", b"h\x00", b"q\x00", text(b"ab"), LATIN, b"C\x08abcdefgh", DTYPE, NEW, SCALAR),
    *(b"c_codecs\nencode\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n"),
    *(b"cnumpy._core.numeric\n_frombuffer\n", b"\x8a\x04\xff\xff\xff\x7f", b"\x8a\x09" + b"\xff" * 9, b"J\xff\xff\xff\xff"),
]


@given(parts=st.lists(st.sampled_from(OPCODES), max_size=25))
@settings(deadline=None, max_examples=500)
def test_any_sequence_of_opcodes_is_a_value_or_a_refusal(parts):
    assert "\n" not in message_of(b"\x80\x02" + b"".join(parts) + b".", unpickle)
