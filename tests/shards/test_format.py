import io
import struct
import tarfile

import numpy as np
import pytest
import twins.tokens
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from molstream.kernels.codec.labels import SparseLabels, densify_labels
from molstream.kernels.codec.tokens import decode_tokens, encode_tokens
from molstream.shards import schema
from molstream.shards.columns import COLUMN_GROUPS, COLUMNS, ColumnWidths, groups_of
from molstream.shards.errors import FormatError
from molstream.shards.format.archive import TAR_END, tar_header, tar_member
from molstream.shards.format.arrays import compress, decode_arrays, decompress, encode_arrays
from molstream.shards.format.block import decode_block, encode_block
from molstream.shards.format.codings import arrays_of
from molstream.shards.molecules import Molecules, offsets
from molstream.shards.tasks import LEVELS, Level

NUM_FEATURES, NUM_GRAPH, NUM_ATOM, NUM_BOND, NUM_PAIR = len(schema.ATOM_FEATURES), 3, 2, 2, 1
NUM_TASKS: dict[Level, int] = {"graph": NUM_GRAPH, "atom": NUM_ATOM, "bond": NUM_BOND, "pair": NUM_PAIR}
GROUPS = groups_of(NUM_TASKS, identifiers=True)
LABELS = tuple(f"{level}_labels" for level in LEVELS)
FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True) | st.just(float("nan"))


@st.composite
def molecule_columns(draw, max_molecules: int = 6) -> Molecules:
    """Any molecules the format can hold, chemistry or not."""
    num_molecules = draw(st.integers(0, max_molecules))
    sizes = [draw(st.integers(0, 7)) for _ in range(num_molecules)]
    bonds = []
    for n in sizes:
        pairs = [(high, low) for high in range(n) for low in range(high)]
        bonds.append(sorted(draw(st.lists(st.sampled_from(pairs), unique=True))) if pairs else [])
    flat = np.array([pair for part in bonds for pair in part], np.uint16).reshape(-1, 2)[:, ::-1]
    num_atoms, num_pairs = sum(sizes), sum(n * (n + 1) // 2 for n in sizes)
    smiles, identifiers = np.empty(num_molecules, object), np.empty(num_molecules, object)
    smiles[:] = [draw(st.text("CNOcn()=#[]@+-/\\123", max_size=12)) for _ in sizes]
    identifiers[:] = [draw(st.text(st.characters(codec="utf-8"), max_size=6)) for _ in sizes]
    return Molecules(
        atom_ptr=offsets(np.array(sizes, np.int64)),
        bond_ptr=offsets(np.array([len(b) for b in bonds], np.int64)),
        atom_codes=draw(hnp.arrays(np.uint8, (num_atoms, NUM_FEATURES), elements=st.integers(0, 255))),
        bond_atoms=np.ascontiguousarray(flat),
        bond_codes=draw(hnp.arrays(np.uint8, len(flat), elements=st.integers(0, 255))),
        graph_labels=draw(hnp.arrays(np.float32, (num_molecules, NUM_GRAPH), elements=FLOATS)),
        atom_labels=draw(hnp.arrays(np.float32, (num_atoms, NUM_ATOM), elements=FLOATS)),
        bond_labels=draw(hnp.arrays(np.float32, (len(flat), NUM_BOND, 2), elements=FLOATS)),
        pair_labels=draw(hnp.arrays(np.float32, (num_pairs, NUM_PAIR, 2), elements=FLOATS)),
        ids=draw(hnp.arrays(np.uint64, num_molecules, elements=st.integers(0, 2**64 - 1))),
        smiles=smiles,
        identifiers=identifiers,
    )


def tiny() -> Molecules:
    """Three molecules that use every encoding but row lists."""
    nan = np.nan
    return Molecules(
        atom_ptr=np.array([0, 2, 3, 6]),
        bond_ptr=np.array([0, 1, 1, 4]),
        atom_codes=np.arange(6 * NUM_FEATURES, dtype=np.uint8).reshape(6, NUM_FEATURES),
        bond_atoms=np.array([[0, 1], [0, 1], [0, 2], [1, 2]], np.uint16),
        bond_codes=np.array([0, 14, 3, 69], np.uint8),
        graph_labels=np.array([[1, nan, nan], [2, nan, -1.5], [3, nan, 7]], np.float32),
        atom_labels=np.array([[0.1, nan], [nan, nan], [0.3, nan], [1, 4], [2, 5], [3, 6]], np.float32),
        # one label a bond, and one for each direction
        bond_labels=np.array(
            [[[1.5, nan], [1, 2]], [[1, nan], [nan, nan]], [[2, nan], [nan, nan]], [[3, nan], [nan, nan]]], np.float32
        ),
        # i <= j by (j, i): of two atoms, of one, of three
        pair_labels=np.array(
            [[[nan, nan]], [[0.5, 0.25]], [[nan, nan]], [[7, nan]], *([[k, nan if k % 3 else -k]] for k in range(6))], np.float32
        ),
        ids=np.array([5, 2**40, 7], np.uint64),
        smiles=np.array(["CO", "", "C1CC1"], object),
        identifiers=np.array(["CHEMBL1", "", "\u00e9"], object),
    )


def varied() -> Molecules:
    """120 chains of 0 to 4 atoms; at each level a plain column, one near it in half of the molecules, counts, one in few."""
    rng = np.random.default_rng(0)
    sizes = np.arange(120) % 5
    num_bonds = np.maximum(sizes - 1, 0)
    bonds = np.concatenate([np.stack([np.arange(n), np.arange(n) + 1], axis=1) for n in num_bonds])
    tokens = {"atom_codes": np.zeros((sizes.sum(), NUM_FEATURES), np.uint8), "bond_codes": np.zeros(len(bonds), np.uint8)}
    labels = {}
    for level, widths in zip(LABELS, (np.ones(120, int), sizes, num_bonds, sizes * (sizes + 1) // 2), strict=True):
        x = rng.normal(1, 1 / 8, size=(widths.sum(), 4)).astype(np.float32)
        x[:, 1] = x[:, 0] * (1 + rng.normal(size=len(x)) / 1000)
        x[:, 2] = rng.integers(0, 3, len(x)) / 10
        x[np.repeat(rng.random(120) < 0.5, widths), 1] = np.nan
        x[np.repeat(np.arange(120) % 50 > 0, widths), 3] = np.nan
        # of bonds and pairs these are the two directions of two tasks
        labels[level] = x.reshape(-1, 2, 2) if level in ("bond_labels", "pair_labels") else x
    return Molecules(
        atom_ptr=offsets(sizes),
        bond_ptr=offsets(num_bonds),
        bond_atoms=bonds.astype(np.uint16),
        ids=np.arange(120, dtype=np.uint64),
        smiles=np.array([""] * 120, object),
        **tokens,
        **labels,
    )


def decode(contents: dict[str, bytes], num_molecules: int, *, num_tasks: dict[Level, int] = NUM_TASKS) -> Molecules:
    widths = ColumnWidths(atom_codes=(256,) * NUM_FEATURES, bond_codes=256, num_tasks=num_tasks)
    return decode_block(contents, num_molecules=num_molecules, widths=widths)


def assert_same(found: Molecules, expected: Molecules) -> None:
    for name in ("atom_ptr", "bond_ptr", *COLUMNS):
        a, b = getattr(found, name), getattr(expected, name)
        if a is None or b is None:
            assert a is b, name
            continue
        assert a.dtype == b.dtype, name
        assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), name


def assert_well_formed(m: Molecules, num_molecules: int) -> None:
    """What a kernel relies on: dtypes, lengths, rising offsets, bonds inside their molecule."""
    assert len(m) == num_molecules
    for ptr in (m.atom_ptr, m.bond_ptr):
        assert ptr.dtype == np.int64
        assert ptr[0] == 0
        assert (np.diff(ptr) >= 0).all()
    num_atoms, num_bonds = m.atom_ptr[-1], m.bond_ptr[-1]
    num_pairs = sum(n * (n + 1) // 2 for n in np.diff(m.atom_ptr).tolist())
    expected = {
        "atom_codes": (np.uint8, (num_atoms, NUM_FEATURES)),
        "bond_atoms": (np.uint16, (num_bonds, 2)),
        "bond_codes": (np.uint8, (num_bonds,)),
        "graph_labels": (np.float32, (num_molecules, NUM_GRAPH)),
        "atom_labels": (np.float32, (num_atoms, NUM_ATOM)),
        "bond_labels": (np.float32, (num_bonds, NUM_BOND, 2)),
        "pair_labels": (np.float32, (num_pairs, NUM_PAIR, 2)),
        "ids": (np.uint64, (num_molecules,)),
        "smiles": (object, (num_molecules,)),
        "identifiers": (object, (num_molecules,)),
    }
    for name, (dtype, shape) in expected.items():
        column = getattr(m, name)
        if column is not None:
            assert (column.dtype, column.shape) == (dtype, shape), name
    if m.bond_atoms is not None:
        limit = np.repeat(np.diff(m.atom_ptr), np.diff(m.bond_ptr))
        assert (m.bond_atoms[:, 0] < m.bond_atoms[:, 1]).all()
        assert (m.bond_atoms[:, 1] < limit).all()


@given(molecule_columns())
def test_a_block_comes_back_as_it_was(molecules):
    contents = encode_block(molecules, label_dtypes=dict.fromkeys(LEVELS, "f4"))
    assert tuple(contents) == GROUPS
    again = decode({group: decompress(compress(c)) for group, c in contents.items()}, len(molecules))
    assert_same(again, molecules)
    assert encode_block(again) == contents


def test_every_set_has_the_same_four_groups_and_others_as_it_needs_them_in_one_order():
    assert groups_of(NUM_TASKS, pe=("lap8", "rw16"), identifiers=True) == tuple(COLUMN_GROUPS)
    nothing = dict.fromkeys(LEVELS, 0)
    assert groups_of(nothing) == ("sizes", "structure", "ids", "smiles")
    pm6 = nothing | {"graph": 62, "atom": 7}
    assert groups_of(pm6) == ("sizes", "structure", "graph_labels", "atom_labels", "ids", "smiles")
    assert groups_of(nothing | {"pair": 1}, pe=("lap8",), identifiers=True) == (
        *("sizes", "structure", "lap8", "pair_labels"),
        *("ids", "smiles", "identifiers"),
    )


@given(molecule_columns(max_molecules=3), st.sets(st.sampled_from([*LABELS, "identifiers"])), st.booleans())
def test_columns_that_a_set_does_not_have_are_no_members(molecules, absent, as_empty_columns):
    # labels of no tasks at all are no labels
    empty = {name: None if getattr(molecules, name).ndim == 1 else getattr(molecules, name)[:, :0] for name in absent}
    molecules = molecules.replace(**dict.fromkeys(absent))
    contents = encode_block(molecules.replace(**empty) if as_empty_columns else molecules)
    num_tasks = {level: 0 if f"{level}_labels" in absent else n for level, n in NUM_TASKS.items()}
    assert tuple(contents) == groups_of(num_tasks, identifiers="identifiers" not in absent)
    assert_same(decode(contents, len(molecules), num_tasks=num_tasks), molecules)


@given(molecule_columns(max_molecules=3), st.sets(st.sampled_from(GROUPS)))
def test_any_groups_beside_the_sizes_can_be_read_alone(molecules, groups):
    contents = {g: c for g, c in encode_block(molecules).items() if g in groups | {"sizes"}}
    again = decode(contents, len(molecules))
    assert_well_formed(again, len(molecules))
    for group in GROUPS[1:]:
        column = getattr(again, "atom_codes" if group == "structure" else group)
        assert (column is not None) == (group in groups)


def test_a_label_that_one_in_many_molecules_has_comes_back_from_a_row_list():
    n = 200
    labels = np.full((n, NUM_GRAPH), np.nan, np.float32)
    labels[[3, 150], 0] = [1.5, -2]
    labels[::2, 1] = np.arange(100)
    labels[:, 2] = 7
    molecules = Molecules(
        atom_ptr=np.zeros(n + 1, np.int64),
        bond_ptr=np.zeros(n + 1, np.int64),
        atom_codes=np.empty((0, NUM_FEATURES), np.uint8),
        bond_atoms=np.empty((0, 2), np.uint16),
        bond_codes=np.empty(0, np.uint8),
        graph_labels=labels,
        atom_labels=np.empty((0, NUM_ATOM), np.float32),
        ids=np.arange(n, dtype=np.uint64),
        smiles=np.array([""] * n, object),
    )
    content = encode_block(molecules)["graph_labels"]
    arrays = decode_arrays(content, arrays_of("graph_labels"))
    assert arrays["presence"].tolist() == [2, 1, 0]
    assert arrays["rows"].tolist() == [3, 150]
    # the last is constant
    assert arrays["planes"].tolist()[2] == 0
    assert arrays["values"].size == arrays["planes"] @ [2, 100, 200]
    assert_same(decode(encode_block(molecules), n), molecules)


def test_molecules_of_more_than_255_and_65535_atoms_take_wider_arrays():
    n = 70_000
    molecules = Molecules(
        atom_ptr=np.array([0, n, n + 300]),
        bond_ptr=np.array([0, 0, 1]),
        atom_codes=np.zeros((n + 300, NUM_FEATURES), np.uint8),
        bond_atoms=np.array([[1, 299]], np.uint16),
        bond_codes=np.zeros(1, np.uint8),
        graph_labels=np.zeros((2, NUM_GRAPH), np.float32),
        atom_labels=np.full((n + 300, NUM_ATOM), np.nan, np.float32),
        bond_labels=np.ones((1, NUM_BOND, 2), np.float32),
        ids=np.arange(2, dtype=np.uint64),
        smiles=np.array(["C" * n, "C" * 300], object),
        identifiers=np.array(["", "\u00e9" * n], object),
    )
    contents = encode_block(molecules)
    assert decode_arrays(contents["sizes"], arrays_of("sizes"))["num_atoms"].dtype == np.uint32
    for group in ("smiles", "identifiers"):
        assert decode_arrays(contents[group], arrays_of(group))["lengths"].dtype == np.uint32
    assert_same(decode(contents, 2), molecules)


def test_labels_of_bonds_and_pairs_are_two_columns_a_task():
    molecules = tiny()
    contents = encode_block(molecules)
    for level, counts in (("bond", [2, 0, 1, 1]), ("pair", [3, 2])):
        arrays = decode_arrays(contents[f"{level}_labels"], arrays_of(f"{level}_labels"))
        assert arrays["count"].tolist() == counts
        flat = molecules.labels(level).reshape(len(molecules.labels(level)), len(counts))
        ptr = molecules.label_ptr(level)
        rows = densify_labels(SparseLabels(**arrays), ptr)
        assert np.array_equal(rows, flat, equal_nan=True)
        assert np.array_equal(rows[:, ::2], molecules.labels(level)[..., 0], equal_nan=True)
        assert np.array_equal(rows[:, 1::2], molecules.labels(level)[..., 1], equal_nan=True)


def test_pairs_of_a_molecule_that_no_set_can_hold_are_refused_before_there_is_room_for_them():
    n = schema.MAX_ATOMS
    sizes = {k: np.array([k, 0, 0], np.uint16) for k in (n, n + 1)}
    contents = {"pair_labels": encode_block(tiny())["pair_labels"]}
    for k, reason in ((n + 1, f"pairs of a molecule of {n + 1} atoms, more than {n}"), (n, "bytes of label values, expected")):
        arrays = {"num_atoms": sizes[k], "num_bonds": np.zeros(3, np.uint16)}
        with pytest.raises(FormatError, match=f"member pair_labels: .*{reason}"):
            decode(contents | {"sizes": encode_arrays(arrays)}, 3)


def test_the_bytes_are_those_of_the_documented_layout():
    ids = np.array([1, 0x0102030405060708], np.uint64)
    content = encode_arrays({"ids": ids}, shuffle=frozenset({"ids"}))
    head = b"MSA2" + bytes([1, 0, 0, 0])
    entry = b"ids".ljust(16, b"\0") + b"u8" + b"\1" + bytes(5) + (2).to_bytes(8, "little")
    planes = bytes([1, 8]) + bytes(v for k in range(7, 0, -1) for v in (0, k))
    assert content == head + entry + planes
    sizes = encode_arrays({"num_atoms": np.array([3], np.uint16), "num_bonds": np.array([2], np.uint16)})
    assert len(sizes) == 8 + 2 * 32 + 2 * 8
    assert sizes[8 + 64 :] == bytes([3, *[0] * 7, 2, *[0] * 7])


def test_flipped_bits_everywhere_of_a_decoded_member_is_refused_or_harmless():
    contents = encode_block(tiny())
    refused = total = 0
    for group, content in contents.items():
        for at in range(len(content)):
            # one of each byte, all in eight
            for bit in (at % 8,):
                damaged = bytearray(content)
                damaged[at] ^= 1 << bit
                total += 1
                try:
                    molecules = decode(contents | {group: bytes(damaged)}, 3)
                except FormatError as error:
                    refused += 1
                    assert str(error).startswith("member ")  # noqa: PT017
                else:
                    assert_well_formed(molecules, 3)
    assert refused > total // 2


@pytest.mark.parametrize("atom", ["f2", "f4"])
@given(st.data())
def test_damage_to_labels_of_every_coding_never_ends_in_anything_but_a_format_error(atom, data):
    molecules = varied()
    contents = encode_block(molecules, label_dtypes={"graph": "f4", "atom": atom, "bond": "f4", "pair": atom})
    group = data.draw(st.sampled_from(LABELS))
    head = 8 + 32 * len(arrays_of(group))
    assert set(decode_arrays(contents[group], arrays_of(group))["coding"]) == {0, 1, 2}
    damaged = bytearray(contents[group])
    for _ in range(data.draw(st.integers(1, 3))):
        # mostly in what comes before the values: there is more to go wrong
        last = data.draw(st.sampled_from([head + 200, len(damaged) - 1]))
        damaged[data.draw(st.integers(head, last))] = data.draw(st.integers(0, 5) | st.integers(0, 255))
    num_tasks = {level: molecules.labels(level).shape[1] for level in LEVELS}
    try:
        again = decode(contents | {group: bytes(damaged)}, len(molecules), num_tasks=num_tasks)
    except FormatError:
        return
    for level in LEVELS:
        assert again.labels(level).shape == molecules.labels(level).shape


def test_every_truncation_of_a_decoded_member_is_refused():
    contents = encode_block(tiny())
    for group, content in contents.items():
        for size in range(len(content)):
            with pytest.raises(FormatError, match=f"member {group}: "):
                decode(contents | {group: content[:size]}, 3)
        with pytest.raises(FormatError, match=f"member {group}: 8 bytes after the last array"):
            decode(contents | {group: content + bytes(8)}, 3)


@given(st.binary(max_size=200))
def test_any_directory_is_refused_or_read(tail):
    content = struct.pack("<4sHH", b"MSA2", len(tail) // 64, 0) + tail
    try:
        decode_arrays(content, arrays_of("ids"))
    except FormatError as error:
        assert str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("arrays", "group"),
    [
        # sums of these wrap around, so that an offset falls outside
        ({"num_atoms": np.array([2**64 - 1, 3, 4], np.uint64), "num_bonds": np.array([1, 0, 3], np.uint16)}, "sizes"),
        ({"num_atoms": np.array([2, 1, 3], np.float32), "num_bonds": np.array([1, 0, 3], np.uint16)}, "sizes"),
        # as int32 these are below every limit
        (
            {
                "atom_rows": np.zeros(NUM_FEATURES, np.uint8),
                "bond_steps": np.full(1, 2**32 - 7, np.uint32),
                "bond_kinds": np.zeros(1, np.uint8),
                "tokens": np.array([0, 0, 1, 0, 0, 0, 1, 0, 1, 1], np.uint8),
            },
            "structure",
        ),
        ({"ids": np.zeros(3, np.float32)}, "ids"),
        ({"lengths": np.array([2**64 - 1, 1, 7], np.uint64), "text": np.zeros(7, np.uint8)}, "smiles"),
        ({"lengths": np.array([2**64 - 1, 1, 7], np.uint64), "text": np.zeros(7, np.uint8)}, "identifiers"),
    ],
)
def test_arrays_of_another_dtype_are_refused_before_they_are_summed(arrays, group):
    contents = encode_block(tiny()) | {group: encode_arrays(arrays)}
    with pytest.raises(FormatError, match=rf"member {group}: array '\w+' of dtype '\w+'"):
        decode(contents, 3)


def test_an_unknown_transform_is_refused():
    contents = encode_block(tiny())
    changed = bytearray(contents["ids"])
    assert changed[8 + 18] == 1
    changed[8 + 18] = 2
    with pytest.raises(FormatError, match=r"member ids: .*transform 2"):
        decode(contents | {"ids": bytes(changed)}, 3)


def with_tokens(tokens, steps=(1, 2), kinds=(0, 3), rows=range(NUM_FEATURES)) -> dict[str, bytes]:
    """`tiny` with another structure: one kind of atom (token 0), bonds one and two back (1 and 2)."""
    arrays = {
        "atom_rows": np.array(rows, np.uint8),
        "bond_steps": np.array(steps, np.uint8),
        "bond_kinds": np.array(kinds, np.uint8),
        "tokens": np.array(tokens, np.uint8),
    }
    return encode_block(tiny()) | {"structure": encode_arrays(arrays)}


def test_the_structure_is_told_atom_by_atom():
    # CO, C, C1CC1
    molecules = decode(with_tokens([0, 0, 1, 0, 0, 0, 1, 0, 2, 1]), 3)
    assert molecules.bond_atoms.tolist() == tiny().bond_atoms.tolist()
    assert molecules.bond_codes.tolist() == [0, 0, 3, 0]
    assert (molecules.atom_codes == np.arange(NUM_FEATURES)).all()


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        ({"tokens": [0, 0, 2, 0, 0, 0, 1, 0, 2, 1]}, "out of its molecule"),  # a bond before the molecule
        ({"tokens": [0, 1, 0, 0, 0, 0, 1, 0, 2, 1]}, "out of its molecule"),
        ({"tokens": [1, 0, 0, 0, 0, 0, 1, 0, 2, 1]}, "out of its molecule"),
        ({"tokens": [0, 0, 1, 0, 0, 0, 1, 0, 2, 1], "steps": (0, 2)}, "out of its molecule"),  # a bond to itself
        ({"tokens": [0, 0, 0, 1, 0, 0, 1, 0, 2, 1]}, "too many"),  # an atom of the next molecule
        ({"tokens": [0, 0, 1, 0, 0, 0, 1, 0, 2, 0]}, "too many"),
        ({"tokens": [0, 0, 1, 0, 0, 0, 1, 1, 2, 1]}, "too many"),
        ({"tokens": [0, 0, 1, 0, 0, 0, 1, 0, 3, 1]}, "unknown"),
        ({"tokens": [0, 0, 1, 0, 0, 0, 1, 0, 255, 1]}, "unknown"),
        ({"tokens": [0, 0, 1, 0, 0, 0, 1, 0, 2]}, "9 tokens for 6 atoms and 4 bonds"),
        ({"tokens": [0, 0, 1, 0, 0, 0, 1, 0, 2, 1], "kinds": (0,)}, "2 steps but 1 kinds of bonds"),
        ({"tokens": [0, 0, 1, 0, 0, 0, 1, 0, 2, 1], "rows": ()}, "unknown"),
        ({"tokens": [0, 0, 1, 0, 0, 0, 1, 0, 2, 1], "rows": (1, 2)}, "2 atom codes, expected rows of 7"),
    ],
)
def test_tokens_that_do_not_spell_the_molecules_are_refused(structure, message):
    with pytest.raises(FormatError, match=f"member structure: .*{message}"):
        decode(with_tokens(**structure), 3)


@given(molecule_columns(), st.data())
def test_tokens_are_read_as_the_twin_reads_them(molecules, data):
    columns = [getattr(molecules, name) for name in ("atom_ptr", "bond_ptr", "atom_codes", "bond_atoms", "bond_codes")]
    coded = encode_tokens(*columns)
    sizes = molecules.num_atoms.tolist(), molecules.num_bonds.tolist()
    for found, twin, column in zip(decode_tokens(coded, *columns[:2]), twins.tokens.decode_tokens(coded, *sizes), columns[2:]):
        assert np.array_equal(found, column)
        assert np.array_equal(twin, column)
    # the same, each molecule at a place of its own
    order = np.array(data.draw(st.permutations(range(len(molecules)))), np.int64)
    out = tuple(np.empty_like(column) for column in columns[2:])
    starts = []
    for sizes_of in (molecules.num_atoms, molecules.num_bonds):
        start = np.empty(len(order), np.int64)
        start[order] = np.cumsum(sizes_of[order]) - sizes_of[order]
        starts.append(start)
    moved = molecules.take(order)
    for found, name in zip(
        decode_tokens(coded, *columns[:2], out, starts=tuple(starts)), ("atom_codes", "bond_atoms", "bond_codes"), strict=True
    ):
        assert np.array_equal(found, getattr(moved, name))
    tokens = coded.tokens.copy()
    if not tokens.size:
        return
    tokens[data.draw(st.integers(0, tokens.size - 1))] = data.draw(st.integers(0, len(coded.atom_rows) + 3))
    try:
        twin = twins.tokens.decode_tokens(coded._replace(tokens=tokens), *sizes)
    except ValueError:
        with pytest.raises(ValueError, match="tokens do not spell"):
            decode_tokens(coded._replace(tokens=tokens), *columns[:2])
    else:
        assert all(map(np.array_equal, decode_tokens(coded._replace(tokens=tokens), *columns[:2]), twin))


def test_bonds_in_another_order_cannot_be_stored():
    for bonds in ([[0, 1], [1, 2], [0, 1], [0, 2]], [[0, 1], [1, 0], [0, 2], [1, 2]], [[0, 2], [0, 1], [0, 2], [1, 2]]):
        with pytest.raises(ValueError, match="bonds are not sorted"):
            encode_block(tiny().replace(bond_atoms=np.array(bonds, np.uint16)))


def test_labels_are_stored_in_the_precision_that_is_asked_for_each_level():
    molecules = tiny().replace(**{name: np.float32(0.1) * getattr(tiny(), name) for name in LABELS})
    for halves in ((), ("atom",), ("graph", "bond"), ("pair",), LEVELS):
        dtypes = {level: "f2" if level in halves else "f4" for level in LEVELS}
        contents = encode_block(molecules, label_dtypes=dtypes)
        found = {level: decode_arrays(contents[f"{level}_labels"], arrays_of(f"{level}_labels"))["table"] for level in LEVELS}
        assert {level: table.dtype for level, table in found.items()} == {
            level: np.float16 if level in halves else np.float32 for level in LEVELS
        }
        again = decode(contents, 3)
        rounded = {f"{level}_labels": molecules.labels(level).astype(np.float16).astype(np.float32) for level in halves}
        assert_same(again, molecules.replace(**rounded))
        assert encode_block(again, label_dtypes=dtypes) == contents
    for level in LEVELS:
        with pytest.raises(ValueError, match="more than float16 can"):
            encode_block(
                tiny().replace(**{f"{level}_labels": tiny().labels(level) * 1e5}), label_dtypes=dict.fromkeys(LEVELS, "f2")
            )


def test_counts_that_contradict_each_other_are_refused():
    contents = encode_block(tiny())
    for picks in ([0, 1], [0, 2]):
        other = encode_block(tiny().take(np.array(picks)))
        for group in GROUPS:
            # of these two only the first has bonds: bitmaps say the same whether one molecule without labels follows or two
            if (group, picks) != ("bond_labels", [0, 1]):
                with pytest.raises(FormatError, match="member "):
                    decode(contents | {group: other[group]}, 3)
    for level, number in NUM_TASKS.items():
        for said in (number - 1, number + 1):
            with pytest.raises(FormatError, match=rf"member {level}_labels: labels of \d columns, the manifest lists \d"):
                decode(contents, 3, num_tasks=NUM_TASKS | {level: said})
    with pytest.raises(FormatError, match="member sizes: sizes of 3 molecules, the index says 4"):
        decode(contents, 4)


def test_a_zstd_frame_announces_its_size_and_checks_its_content():
    frame = compress(b"molecules" * 50)
    parameters = zstandard.get_frame_parameters(frame)
    assert parameters.content_size == 450
    assert parameters.has_checksum
    assert decompress(frame) == b"molecules" * 50
    assert decompress(compress(b"")) == b""
    for bad, reason in (
        (b"", "not a zstd frame"),
        (b"plain text", "not a zstd frame"),
        (frame[:-1], "not a zstd frame"),
        (frame[:-1] + bytes([frame[-1] ^ 1]), "not a zstd frame"),
        (zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 99), "announces"),
        # a bomb: 2 GiB and a byte announced
        (bytes.fromhex("28b52ffd" + "e0") + (2**31 + 1).to_bytes(8, "little") + bytes(3), "announces 2147483649 bytes"),
    ):
        with pytest.raises(FormatError, match=reason):
            decompress(bad)


def test_a_frame_is_cut_where_planes_begin_and_read_as_any_other():
    rng = np.random.default_rng(0)
    planes = {"ids": (rng.integers(0, 3, 4096) << 8 | rng.integers(0, 256, 4096)).astype(np.uint64)}
    content = encode_arrays(planes, shuffle=frozenset({"ids"}))
    head = 8 + 32
    assert content.cuts == tuple(head + 4096 * k for k in range(8))
    cut, whole = compress(content), compress(bytes(content))
    assert decompress(cut) == decompress(whole) == content
    assert zstandard.get_frame_parameters(cut).content_size == len(content)
    # the first plane is noise, the second takes log2(3) bits
    assert len(cut) < len(whole) - 100
    # planes shorter than a block should be are not cut
    short = encode_arrays({"ids": planes["ids"][:200]}, shuffle=frozenset({"ids"}))
    assert compress(short) == compress(bytes(short))


def test_the_stdlib_reads_a_shard_and_finds_the_documented_members(sample_set):
    index, groups = sample_set.index, sample_set.groups
    assert groups == ("sizes", "structure", "graph_labels", "atom_labels", "ids", "smiles")
    for path in sorted(sample_set.path.glob("*.tar")):
        rows = [b for b in range(len(index)) if sample_set.shard_path(b) == path]
        with tarfile.open(path, "r:") as tar:
            members = tar.getmembers()
        expected = [f"{path.stem}-{k:04d}.{group}.zst" for k in range(len(rows)) for group in groups]
        assert [m.name for m in members] == expected
        for info in members:
            assert (info.mode, info.uid, info.gid, info.mtime, info.uname, info.gname) == (0o644, 0, 0, 0, "", "")
            assert info.isreg()
        where = [int(index.members[f"{g}_offset"][b]) for b in rows for g in groups]
        assert [m.offset_data for m in members] == where
        assert path.read_bytes().endswith(TAR_END)
        assert path.stat().st_size == members[-1].offset_data + -(-members[-1].size // 512) * 512 + 1024


@given(st.binary(max_size=1100))
def test_a_member_is_a_header_its_data_and_zeros(data):
    member = tar_member("train-00000-0000.ids.zst", data)
    assert len(member) % 512 == 0
    with tarfile.open(fileobj=io.BytesIO(member + TAR_END), mode="r:") as tar:
        info = tar.next()
        assert (info.name, info.size) == ("train-00000-0000.ids.zst", len(data))
        assert tar.extractfile(info).read() == data
        assert tar.next() is None


def test_the_bytes_of_a_tar_header_do_not_depend_on_the_version_of_tarfile():
    name = b"train-00000-0000.ids.zst".ljust(100, b"\0")
    owner = b"0000644\0" + b"0000000\0" * 2
    size, time = b"00000001234\0", b"00000000000\0"
    rest = (b"0" + bytes(100) + b"ustar\x0000").ljust(356, b"\0")
    checksum = b"%06o\0 " % sum(name + owner + size + time + b" " * 8 + rest)
    assert tar_header("train-00000-0000.ids.zst", 0o1234) == name + owner + size + time + checksum + rest


def test_a_frame_that_announces_more_than_it_can_hold_is_refused_before_memory_is_taken(monkeypatch):
    def frame(size: int) -> bytes:
        # magic, a descriptor with 8 bytes of content size in a single segment, then a last block without content
        return bytes.fromhex("28b52ffd") + b"\xe0" + size.to_bytes(8, "little") + bytes.fromhex("010000")

    assert decompress(compress(bytes(10**6))) == bytes(10**6)
    monkeypatch.setattr(zstandard, "ZstdDecompressor", lambda: pytest.fail("decompressed"))
    with pytest.raises(FormatError, match="zstd frame of 16 bytes announces 2,147,483,648, of which it has room for 524,288"):
        decompress(frame(2**31))
    with pytest.raises(FormatError, match=f"announces {2**40} bytes, allowed are 0 to"):
        decompress(frame(2**40))
