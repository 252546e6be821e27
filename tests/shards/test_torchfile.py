"""Files of the real torch.save come back as they were; whatever else a file is or wants is one line, and nothing has run."""

import collections
import fractions
import io
import os
import pickle
import re
import resource
import struct
import sys
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from molstream.shards.errors import InputError, SchemaError
from molstream.shards.splits.torchfile import NUMBERS, read_torch_file


def saved(value, **options) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
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
    return read_torch_file(io.BytesIO(data), where="x.pt")


def refusal(data: bytes) -> str:
    with pytest.raises(SchemaError, match=r"\Ax\.pt: ") as caught:
        read(data)
    assert str(caught.value).isprintable()
    return str(caught.value).removeprefix("x.pt: ")


def same(a, b) -> bool:
    """Equal in type and value; tensors as arrays."""
    if isinstance(b, torch.Tensor):
        b = b.numpy()
    if isinstance(b, dict):
        return type(a) is dict and list(a) == list(b) and all(same(a[k], b[k]) for k in b)
    if isinstance(b, np.ndarray):
        return isinstance(a, np.ndarray) and (a.dtype, a.shape) == (b.dtype, b.shape) and np.array_equal(a, b)
    return type(a) is type(b) and (a == b if not isinstance(b, list) else all(map(same, a, b)) and len(a) == len(b))


# what is read


@pytest.mark.parametrize(
    "value",
    [
        {"train": [5, 70_000, 2, 2**40, -1], "val": [300], "test": []},
        {"train": np.array([5, 1], np.int32), "val": np.asfortranarray(np.ones((2, 3))), "test": np.empty(0, np.int64)},
        {"train": torch.tensor([5, 1]), "val": torch.arange(9)[1::3], "test": torch.empty(0, dtype=torch.int64)},
        collections.OrderedDict(a=(1, 2), b=[np.int64(3), np.float32(0.5)], c={}, d="\u4f60", e=[2**70, None, True]),
        [1, 2.5],
        torch.arange(3),
    ],
    ids=["lists", "arrays", "tensors", "ordered", "list", "tensor"],
)
def test_what_torch_saves_is_read(value):
    assert same(read(saved(value)), value)


@pytest.mark.parametrize("code", NUMBERS)
def test_arrays_of_every_type_of_number_are_read(code):
    arrays = {order: np.arange(2).astype(order + code) for order in "<>"}
    assert same(read(saved(arrays)), arrays)


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_arrays_of_numpy_1_and_2_are_read(core):
    value = {"a": np.arange(3), "b": [np.float64(2)]}
    data = pickle.dumps(value, 2).replace(b"numpy._core.", b"numpy.core.").replace(b"numpy.core.", f"{core}.".encode())
    assert core.encode() in data
    assert same(read(with_pickle(data)), value)


def test_a_file_of_the_other_byte_order_is_read():
    data = saved({"a": torch.tensor([1, 2**40])})
    swapped = repacked(data, {"byteorder": b"big", "data/0": np.array([1, 2**40], ">i8").tobytes()})
    assert read(swapped)["a"].tolist() == [1, 2**40]


# what is refused, and did not run


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function, *args):
        self.reduced = (function, args)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(("function", "name"), [(os.system, "posix.system"), (eval, "eval"), (exec, "exec")])
def test_a_file_that_runs_something_is_refused_and_runs_nothing(tmp_path, monkeypatch, function, name):
    monkeypatch.chdir(tmp_path)
    call = "touch ran" if function is os.system else "open('ran', 'w').close()"
    data = saved({"train": [1, 2, 3], "val": Call(function, call)})
    assert refusal(data) == (
        f"holds {name}, an object, and nothing in a file is run: if you trust the file, load it where it was made and save the "
        f"row numbers alone, for example with numpy.savez"
    )
    assert not (tmp_path / "ran").exists()
    # what it would have done
    torch.load(io.BytesIO(data), weights_only=False)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([1, "a"], object), "cannot be read: an array of Python objects; if you trust the file"),
        (np.array(["a", "bc"]), "cannot be read: an array of dtype U2;"),
        (np.array(["2020-01-01"], "M8[D]"), "cannot be read: an array of dtype M8;"),
        (np.zeros(2, [("a", "i4")]), "cannot be read: an array of dtype V4;"),
        (np.ma.array([1]), r"holds numpy\.ma\.core\._mareconstruct, an object"),
        (fractions.Fraction(1, 2), r"holds fractions\.Fraction, an object"),
        (torch.nn.Linear(1, 1), r"holds torch\.nn\.modules\.linear\.Linear, an object"),
        (torch.zeros(2, dtype=torch.bfloat16), "a tensor, strided of bfloat16, that is no array of NumPy's; convert it"),
        (torch.zeros(2).to_sparse(), "a tensor, sparse_coo of float32, that is no array"),
        (torch.zeros(2, device="meta"), "a tensor, strided of float32, that is no array"),
    ],
)
def test_what_is_no_number_is_refused_and_named(value, message):
    assert re.match(message, refusal(saved({"train": value})))


DTYPE = b"cnumpy\ndtype\nX\x02\x00\x00\x00i8\x89\x88\x87R"
STATE = b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nLongStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x03tQ"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE


@pytest.mark.parametrize(
    "body",
    [
        # arrays of memory that the file does not have
        b"cnumpy\nndarray\nJ\xff\xff\xff\x7fX\x01\x00\x00\x00O\x86R",
        b"cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85\x81",
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nJ\xff\xff\xff\x7f\x85X\x01\x00\x00\x00b\x87R",
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85X\x01\x00\x00\x00b\x87R(K\x01J\xff\xff\xff\x7f\x85"
        + DTYPE + STATE + b"\x89X\x02\x00\x00\x00abtb",
        b"cnumpy.core.multiarray\nscalar\n" + DTYPE + STATE + b"X\x02\x00\x00\x00ab\x86R",
        b"c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R",
        b"ctorch\nLongTensor\nK\x02\x85R",
        # fewer than it has
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85X\x01\x00\x00\x00b\x87R(K\x01K\x01\x85"
        + DTYPE + STATE + b"\x89c_codecs\nencode\nX\x10\x00\x00\x00abcdefghabcdefghX\x06\x00\x00\x00latin1\x86Rtb",
        # tensors that leave their storage: longer, later, before it, another size
        REBUILD + b"K\x00J\xff\xff\x00\x00\x85K\x01\x85\x89}tR",
        REBUILD + b"K\x00K\x04\x85K\x01\x85\x89}tR",
        REBUILD + b"K\x02K\x02\x85K\x01\x85\x89}tR",
        REBUILD + b"J\xff\xff\xff\xffK\x02\x85K\x01\x85\x89}tR",
        REBUILD.replace(b"K\x03tQ", b"K\x05tQ") + b"K\x00K\x02\x85K\x01\x85\x89}tR",
        REBUILD.replace(b"\x00\x00\x000X", b"\x00\x00\x001X") + b"K\x00K\x02\x85K\x01\x85\x89}tR",
    ],
)  # fmt: skip
def test_what_a_file_claims_and_does_not_have_is_refused(body):
    sound = repacked(saved({}), {"data/0": np.arange(3).tobytes()})
    assert read(repacked(sound, {"data.pkl": b"\x80\x02" + REBUILD + b"K\x00K\x03\x85K\x01\x85\x89}tR."})).tolist() == [0, 1, 2]
    assert refusal(repacked(sound, {"data.pkl": b"\x80\x02" + body + b"."}))


def test_a_pickle_of_another_protocol_is_refused():
    for protocol in (3, 4, 5):
        message = refusal(saved({"a": [1]}, pickle_protocol=protocol))
        assert message.startswith(
            f"a pickle that begins with b'\\x80\\x0{protocol}', expected protocol 2, which torch.save writes"
        )


def test_torch_that_is_missing_or_can_be_made_to_run_code_is_refused(monkeypatch):
    data = saved({"a": [1]})
    for version in ("2.9.1+cu118", "1.13.0", "2.5.0a0+git1"):
        monkeypatch.setattr(torch, "__version__", version)
        with pytest.raises(InputError, match=rf"^x\.pt: this needs torch 2\.10 or later, found {re.escape(version)}, which a "):
            read(data)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        InputError, match=r"^x\.pt: this needs the package torch, which is not installed here; install it, or save"
    ):
        read(data)
    # what torch is not needed for comes first
    with pytest.raises(SchemaError, match=r"^x\.pt: a damaged zip"):
        read(data[:-30])


def test_torch_is_told_of_our_names_for_no_longer_than_it_takes():
    before = torch.serialization.get_safe_globals()
    read(saved({"a": np.arange(3)}))
    assert refusal(saved({"a": fractions.Fraction(1, 2)}))
    assert torch.serialization.get_safe_globals() == before


# zips


def test_a_file_of_another_kind_is_refused_with_what_to_do():
    old = saved({"a": [1]}, _use_new_zipfile_serialization=False)
    for data in (old, pickle.dumps([1]), b"", b"PK"):
        assert re.match(r"not a file of torch\.save: begins with b.*load it where it was made and save it again", refusal(data))


def test_a_damaged_zip_is_refused():
    data = saved({"a": [1], "b": torch.arange(50)})
    assert refusal(data[:-30]) == "a damaged zip: File is not a zip file"
    # torch.load itself looks at no checksum
    for name, part in {"archive/data.pkl": b"}q\x00", "archive/data/0": bytes([49, 0, 0, 0])}.items():
        at = data.index(part)
        flipped = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        assert refusal(flipped).startswith(f"zip entry {name} is damaged: Bad CRC-32")
    assert torch.load(io.BytesIO(flipped), weights_only=True)["b"][49] == 48


def test_entries_that_are_compressed_twice_missing_or_too_long_are_refused():
    data = saved({"a": torch.arange(3)})
    compressed = repacked(data, {}, compression=zipfile.ZIP_DEFLATED)
    assert refusal(compressed).startswith("zip entry archive/data.pkl is compressed or encrypted, which torch.save never does")
    for count, others in {0: {"data.pkl": None}, 2: {}}.items():
        message = f"not a file of torch.save: a zip with {count} entries */data.pkl, expected one"
        assert refusal(repacked(data, others, others={} if others else {"other/data.pkl": b""})) == message
    for changes in ({"data/0": None}, {"data/0": bytes(16)}, {"data/0": bytes(32)}, {"byteorder": b"middle"}, {"version": None}):
        assert refusal(repacked(data, changes)).startswith("cannot be read: ")
    file = io.BytesIO(data)
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("archive/data.pkl", b"\x80\x02N.")
    assert refusal(file.getvalue()) == "zip entry archive/data.pkl is there twice"


def test_a_zip_whose_entries_claim_more_than_the_file_has_takes_no_memory():
    bomb = repacked(saved({}), {"data/0": bytes(1 << 25)}, compression=zipfile.ZIP_DEFLATED)
    overlapping = bytearray(repacked(saved({"a": torch.arange(1000)}), {"data/0": bytes(8000)}))
    # every entry of the directory names all bytes of the largest
    for match in re.finditer(b"PK\x01\x02", bytes(overlapping)):
        overlapping[match.start() + 20 : match.start() + 28] = struct.pack("<II", 2**31, 2**31)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "is compressed or encrypted" in refusal(bomb)
    assert re.match(r"zip entries of \d+ bytes in a file of \d+", refusal(bytes(overlapping)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10


# anything at all

VALID = saved(
    {"l": [1, 300, 2**40], "a": np.arange(5, dtype=np.int32), "t": torch.arange(4), "s": ("x", 1.5, None, np.float32(1))}
)


def is_refused_or_read(data: bytes) -> None:
    """Any exception but a SchemaError of one line fails."""
    try:
        read(data)
    except SchemaError as error:
        assert str(error).isprintable()  # noqa: PT017


@given(data=st.data())
@settings(max_examples=60)
def test_any_flipped_bits_and_truncations_of_a_file_are_a_value_or_a_refusal(data):
    changed = bytearray(VALID)
    for at in data.draw(st.lists(st.integers(0, len(VALID) * 8 - 1), max_size=3)):
        changed[at // 8] ^= 1 << at % 8
    is_refused_or_read(bytes(changed[: data.draw(st.integers(0, len(VALID)) | st.just(len(VALID)))]))


@given(data=st.data())
@settings(max_examples=150)
def test_any_changed_pickle_in_a_sound_zip_is_a_value_or_a_refusal(data):
    """The checksums keep flips from torch.load: here they get there."""
    with zipfile.ZipFile(io.BytesIO(VALID)) as archive:
        pickled = bytearray(archive.read("archive/data.pkl"))
    for at, byte in data.draw(st.lists(st.tuples(st.integers(2, len(pickled) - 1), st.integers(0, 255)), min_size=1, max_size=3)):
        pickled[at] = byte
    is_refused_or_read(repacked(VALID, {"data.pkl": bytes(pickled[: data.draw(st.integers(2, len(pickled)) | st.none())])}))
