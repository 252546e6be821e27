"""Summed messages: values and gradients equal the twins, native operations and finite differences, on any number of threads."""

import numpy as np
import pytest
import torch
import twins.messages
from hypothesis import given
from hypothesis import strategies as st

from molstream.kernels.nn import messages
from molstream.kernels.nn.segment import Edges, gather, segment_sum, sum_messages, use_backend

NUM_CODES = 5


def random_edges(generator: np.random.Generator, *, atoms: int, bonds: int, padding: int = 0) -> Edges:
    """Both directions of each bond in turn, codes of their own; bonds may repeat or be loops. Padding loops on the last atom."""
    ends = generator.integers(0, atoms, (bonds, 2))
    source = np.concatenate([ends.ravel(), np.full(2 * padding, atoms - 1)])
    target = np.concatenate([ends[:, ::-1].ravel(), np.full(2 * padding, atoms - 1)])
    code = generator.integers(0, NUM_CODES, len(source))
    return Edges.sort(*map(torch.from_numpy, (source, target, code)), num_atoms=atoms)


@st.composite
def cases(draw):
    """(edges, x, table, weights of the result), float64; few values, so that sums of 0 are common."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    atoms, hidden = draw(st.integers(1, 9)), draw(st.sampled_from([1, 3, 8, 256]))
    edges = random_edges(generator, atoms=atoms, bonds=draw(st.integers(0, 14)), padding=draw(st.sampled_from([0, 0, 1, 20])))
    shapes = (atoms, hidden), (NUM_CODES, hidden), (atoms, hidden)
    return edges, *(torch.from_numpy(generator.integers(-4, 5, shape) / 4) for shape in shapes)


def native(x: torch.Tensor, edges: Edges, table: torch.Tensor | None = None) -> torch.Tensor:
    message = gather(x, edges.source_E)
    if table is not None:
        message = torch.relu(message + gather(table, edges.code_E))
    return segment_sum(message, edges.target_E, num_segments=len(x))


def value_and_gradients(function, x, edges, table, weights):
    """The result and its gradients by x and the table, weighed by `weights`."""
    inputs = [t.clone().requires_grad_() for t in (x, table) if t is not None]
    out = function(inputs[0], edges, *inputs[1:])
    return [out.detach(), *torch.autograd.grad(out, inputs, weights)]


@pytest.fixture
def threads():
    """threads(n): torch's, until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@given(cases())
def test_messages_and_their_gradients_equal_the_twins(case):
    edges, x, table, weights = case
    out, grad_x, grad_table = value_and_gradients(sum_messages, x, edges, table, weights)
    ends = [index.tolist() for index in edges[:3]]
    # multiples of 1/4: sums are exact in any order
    np.testing.assert_array_equal(out, twins.messages.sum_messages(x.numpy(), *ends, table.numpy()))
    expect_x, expect_table = twins.messages.message_gradients(weights.numpy(), x.numpy(), *ends, table.numpy())
    np.testing.assert_array_equal(grad_x, expect_x)
    np.testing.assert_array_equal(grad_table, expect_table)


@given(cases())
def test_sums_of_neighbours_and_their_gradients_equal_the_twin(case):
    edges, x, _, weights = case
    out, grad_x = value_and_gradients(sum_messages, x, edges, None, weights)
    source, target, code = (index.tolist() for index in edges[:3])
    np.testing.assert_array_equal(out, twins.messages.sum_messages(x.numpy(), source, target, code))
    np.testing.assert_array_equal(grad_x, twins.messages.sum_messages(weights.numpy(), target, source, code))


def large_case(dtype: torch.dtype, *, hidden: int = 40, padding: int = 300):
    """Enough edges for eight parts; normal numbers."""
    generator = np.random.default_rng(0)
    edges = random_edges(generator, atoms=3000, bonds=4200, padding=padding)
    return edges, *(torch.from_numpy(generator.normal(size=(n, hidden))).to(dtype) for n in (3000, NUM_CODES, 3000))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_messages_equal_native_operations(dtype):
    edges, x, table, weights = large_case(dtype)
    for t in (table, None):
        (out, grad_x, *grad_table), (expect, expect_x, *expect_table) = (
            value_and_gradients(function, x, edges, t, weights) for function in (sum_messages, native)
        )
        assert torch.equal(out, expect)
        # a loop goes back in the other order of its two edges
        lone = edges.source_E == edges.target_E
        plain = torch.ones(len(x), dtype=torch.bool).index_fill(0, edges.source_E[lone], False)
        assert plain.sum() > 2000
        assert torch.equal(grad_x[plain], expect_x[plain])
        torch.testing.assert_close(grad_x, expect_x)
        torch.testing.assert_close(grad_table, expect_table, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("padding", [0, 300, 4000])
def test_the_bits_are_the_same_every_time_and_on_any_number_of_threads(dtype, padding, threads, monkeypatch):
    monkeypatch.setattr(messages, "_NUMBERS_A_THREAD", 1)
    edges, x, table, weights = large_case(dtype, padding=padding)
    for t in (table, None):
        threads(1)
        first = value_and_gradients(sum_messages, x, edges, t, weights)
        for num_threads in (1, 2, 3, 5, 16, 2):
            threads(num_threads)
            for again, expect in zip(value_and_gradients(sum_messages, x, edges, t, weights), first, strict=True):
                assert torch.equal(again, expect), num_threads


def test_parts_of_the_atoms_are_about_as_much_work():
    edges, *_ = large_case(torch.float32, padding=0)
    cuts = messages._cut(tuple(t.numpy() for t in edges))
    rows = np.diff(edges.ptr_A.numpy()[cuts] + cuts)
    assert (len(rows), rows.sum()) == (8, 8400 + 3000)
    assert rows.max() < 1.02 * rows.mean()


def test_gradients_of_gradients_of_messages_are_refused():
    edges, x, table, _ = large_case(torch.float64, hidden=2)
    (grad,) = torch.autograd.grad((sum_messages(x.requires_grad_(), edges, table) ** 2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_infinite_and_missing_numbers_are_those_of_native_operations(dtype):
    special = torch.tensor([0.0, -0.0, 1.0, -1.0, 2.0, torch.inf, -torch.inf, torch.nan], dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    edges = random_edges(np.random.default_rng(2), atoms=200, bonds=120)
    x, table, weights = (special[torch.randint(0, 8, (n, 11), generator=generator)] for n in (200, NUM_CODES, 200))
    for t in (table, None):
        got, expect = (value_and_gradients(function, x, edges, t, weights) for function in (sum_messages, native))
        for a, b in zip(got, expect, strict=True):
            assert torch.equal(a.isnan(), b.isnan())
            assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))
            assert not a.isnan().all()


def test_a_message_of_exactly_zero_sends_nothing_back():
    edges = Edges.sort(torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([0, 1]), num_atoms=2)
    x, table = torch.tensor([[1.0], [1.0]]), torch.tensor([[-1.0], [2.0]])
    _, grad_x, grad_table = value_and_gradients(sum_messages, x, edges, table, torch.tensor([[3.0], [5.0]]))
    assert grad_x.tolist() == [[0.0], [3.0]]
    assert grad_table.tolist() == [[0.0], [3.0]]


def test_other_dtypes_are_native_operations():
    edges, x, table, weights = large_case(torch.float32, hidden=4)
    half = x.bfloat16(), table.bfloat16()
    for a, t in ((x, half[1]), half, (half[0], None)):
        expect = native(a, edges, t)
        assert sum_messages(a, edges, t).dtype == expect.dtype
        got, expect = (value_and_gradients(f, a, edges, t, weights.to(expect.dtype)) for f in (sum_messages, native))
        assert all(map(torch.equal, got, expect))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_scatter_gives_the_same(dtype, monkeypatch):
    torch_scatter, sums = pytest.importorskip("torch_scatter"), []
    original = torch_scatter.segment_csr
    monkeypatch.setattr(torch_scatter, "segment_csr", lambda *args, **how: sums.append(how["reduce"]) or original(*args, **how))
    edges, x, table, weights = large_case(dtype, hidden=8)
    for t in (table, None):
        expect = value_and_gradients(sum_messages, x, edges, t, weights)
        use_backend("scatter")
        try:
            got = value_and_gradients(sum_messages, x, edges, t, weights)
        finally:
            use_backend("native")
        for a, b in zip(got, expect, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)
    assert sums == ["sum", "sum"]


def test_states_may_lie_in_memory_as_they_like():
    edges, x, table, weights = large_case(torch.float32, hidden=6)
    expect = value_and_gradients(sum_messages, x, edges, table, weights)
    across = [t.T.contiguous().T for t in (x, table, weights)]
    assert all(map(torch.equal, value_and_gradients(sum_messages, across[0], edges, across[1], across[2]), expect))
    x, table = x.requires_grad_(), table.requires_grad_()
    ones = torch.autograd.grad(sum_messages(x, edges, table), (x, table), torch.ones_like(x))
    # an expanded gradient
    assert all(map(torch.equal, torch.autograd.grad(sum_messages(x, edges, table).sum(), (x, table)), ones))


GOOD = Edges(
    *map(torch.tensor, ([0, 1, 1, 2], [1, 0, 2, 1], [0, 0, 1, 1])),
    torch.tensor([1, 0, 3, 2], dtype=torch.int32),
    torch.tensor([0, 1, 3, 4], dtype=torch.int32),
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source_E": torch.tensor([0, 1, 1])}, "expected an even number"),
        ({"code_E": torch.tensor([0, 1, 1])}, "expected an even number"),
        ({"order_E": torch.tensor([1, 0, 3], dtype=torch.int32)}, "expected an even number"),
        ({"ptr_A": torch.tensor([0, 1, 3, 6], dtype=torch.int32)}, "ptr of atom 3"),
        ({"ptr_A": torch.tensor([0, 3, 1, 4], dtype=torch.int32)}, "order of the edges into atom 0"),
        ({"ptr_A": torch.tensor([0, -1, 3, 4], dtype=torch.int32)}, "ptr of atom 0"),
        ({"ptr_A": torch.tensor([0, 1, 4], dtype=torch.int32)}, "edges of 2 atoms, states"),
        ({"order_E": torch.tensor([0, 1, 3, 2], dtype=torch.int32)}, "order of the edges into atom 0"),
        (
            {"order_E": torch.tensor([1, 3, 0, 2], dtype=torch.int32)},
            "order of the edges into atom 1: expected each once, rising",
        ),
        ({"order_E": torch.tensor([1, 0, 0, 2], dtype=torch.int32)}, "order of the edges into atom 1"),
        ({"order_E": torch.tensor([-3, 0, 3, 2], dtype=torch.int32)}, "order of the edges into atom 0"),
        ({"order_E": torch.tensor([1, 0, 4, 2], dtype=torch.int32)}, "order of the edges into atom 1"),
        ({"source_E": torch.tensor([0, 1, 3, 2])}, r"edge 3: edge e \^ 1 is not its reverse"),
        ({"source_E": torch.tensor([0, -1, 1, 2])}, r"edge 0: edge e \^ 1 is not its reverse"),
        ({"target_E": torch.tensor([1, 0, 3, 1])}, "order of the edges into atom 2"),
        ({"code_E": torch.tensor([0, 0, 1, 2])}, "code of edge 3: expected a row of the table"),
        ({"code_E": torch.tensor([0, -1, 1, 1])}, "code of edge 1: expected a row of the table"),
        ({"source_E": torch.tensor([0, 1, 1, 1])}, r"edge 2: edge e \^ 1 is not its reverse"),
    ],
)
def test_edges_that_kernels_may_not_read_are_refused(changes, message):
    x, table = torch.zeros(3, 2), torch.zeros(2, 2)
    sum_messages(x, GOOD, table)
    with pytest.raises(ValueError, match=message):
        sum_messages(x, GOOD._replace(**changes), table)


def test_a_table_of_another_width_is_refused():
    with pytest.raises(ValueError, match="states"):
        sum_messages(torch.zeros(3, 2), GOOD, torch.zeros(2, 1))
