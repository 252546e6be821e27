"""Loss and gradients depend on molecules and labels, not on how they were packed; each loss is what its name says."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from molstream.kernels.rng.permutation import shuffled
from molstream.streamer.batch import Layout
from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.loader import Loader
from molstream.streamer.window import Window, collate
from molstream.trainers.config import LOSSES
from molstream.trainers.jobs.evaluate import plan_budget
from molstream.trainers.layer_table import LAYERS
from molstream.trainers.models.loss import ERRORS, Loss, Targets, count_labels, label_columns, match
from molstream.trainers.models.network import build_network
from molstream.trainers.spec import DataSpec


def batches_of(shard_set, molecules, packs: list[np.ndarray], budget: Budget):
    ptr = np.concatenate([[0], np.cumsum([len(p) for p in packs])])
    window = Window.of(molecules, (ptr, np.concatenate(packs)))
    num_tasks = {level: len(shard_set.manifest.tasks_of(level)) for level in ("graph", "atom", "bond", "pair")}
    layout = Layout.of(budget, num_features=len(shard_set.manifest.atom_features), num_tasks=num_tasks)
    return [collate(window, k, layout=layout) for k in range(len(packs))]


def loss_and_gradients(network, spec, recipe, batches):
    network.zero_grad()
    targets, loss = Targets(spec), Loss(spec, recipe)
    counts = count_labels(batches, spec)
    total = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        share, _ = loss(network(batch), targets(batch), counts, log_variance=network.log_variance, num_packs=len(batches))
        share.backward()
        total += share.detach().double()
    return float(total), {n: p.grad.clone() for n, p in network.named_parameters()}


def assert_same_whatever_the_packing(shard_set, molecules, recipe, layouts):
    spec = DataSpec.of(shard_set)
    network = build_network(spec, recipe).eval().double()
    results = [loss_and_gradients(network, spec, recipe, batches_of(shard_set, molecules, *layout)) for layout in layouts]
    loss, gradients = results[0]
    assert loss > 0
    for other, other_gradients in results[1:]:
        # the head's output is f32 by design, everything before it is f64 here
        assert other == pytest.approx(loss, rel=1e-6)
        for name, gradient in gradients.items():
            scale = gradient.abs().max()
            assert (other_gradients[name] - gradient).abs().max() <= 1e-5 * scale + 1e-10, name
    return loss, gradients


@pytest.mark.parametrize("seed", [0, 1])
def test_packing_and_padding_change_neither_loss_nor_gradients(sample_set, tiny, seed):
    molecules = sample_set.read_block(0)
    n = len(molecules)
    order = shuffled(n, key=seed)
    layouts = [
        ([np.arange(n)], Budget(128, 2048, 4608)),
        ([np.arange(n)], Budget(256, 4096, 9216)),
        (np.array_split(order, 3), Budget(64, 1024, 2400)),
        ([*np.array_split(order, 5), np.empty(0, np.int64)], Budget(64, 1024, 2400)),
        ([order[:1], order[1:7], order[7:]], Budget(128, 2048, 4608)),
    ]
    assert_same_whatever_the_packing(sample_set, molecules, tiny, layouts)


BESIDE = {
    "gcn": {"pooling": "mean"},
    "gin": {"virtual_node": True, "weighting": "uncertainty"},
    "gine": {"pooling": "max"},
    "gated": {"residual": False},
    "mpnn": {"weighting": "uncertainty"},
}


@pytest.mark.parametrize("layer", LAYERS)
def test_on_every_level_and_for_every_kind_packing_changes_nothing(levels_set, tiny, layer):
    recipe = replace(tiny, layer=layer, **BESIDE.get(layer, {}))
    molecules = levels_set.read_block(int(levels_set.blocks("train")[0]))
    n = len(molecules)
    order = shuffled(n, key=3)
    large, small = Budget(64, 1024, 2400, pairs=16_000), Budget(32, 512, 1200, pairs=8_000)
    layouts = [([np.arange(n)], large), (np.array_split(order, 4), small), ([order[:2], order[2:], order[:0]], large)]
    _, gradients = assert_same_whatever_the_packing(levels_set, molecules, recipe, layouts)
    # every level and every parameter takes part, so that nothing is unused where gradients are reduced
    assert {"graph", "atom", "bond", "pair"} == set(DataSpec.of(levels_set).levels)
    # states of molecules start at 0, so what first reads them has no gradient yet
    assert {name for name, g in gradients.items() if not g.abs().sum() > 0} <= {"layers.0.edge_graph.weight"}


def test_the_loss_is_the_mean_error_of_each_task_set_averaged(levels_set, tiny):
    """Label by label in plain Python, on every level, each label held against both ends of its bond or pair."""
    spec, recipe = DataSpec.of(levels_set), replace(tiny, dropout=0.0)
    network = build_network(spec, recipe).eval()
    config = StreamConfig(budget=plan_budget(levels_set, spec, recipe), num_lanes=2)
    batches = next(iter(Loader(levels_set, config))).batches
    loss, _ = loss_and_gradients(network, spec, recipe, batches)
    errors = {head.name: [] for head in spec.heads}
    with torch.no_grad():
        for batch in batches:
            predictions = network(batch)
            for head in spec.heads:
                for t, column in enumerate(head.columns):
                    for row, direction, label in iter_labels(batch, head.level, column):
                        both = head.level in ("bond", "pair")
                        index = 2 * row + direction if both else row
                        p = predictions[head.name][index, t]
                        if both and one_way(batch, head.level, row, column):
                            p = (p + predictions[head.name][index ^ 1, t]) / 2
                        errors[head.name].append(plain_error(head, t, p, label))
    assert all(errors.values())
    assert loss == pytest.approx(np.mean([np.mean(e) for e in errors.values()]), rel=1e-4)


def iter_labels(batch, level, column):
    if level in ("graph", "atom"):
        labels = batch.graph_labels_GT if level == "graph" else batch.atom_labels_AT
        yield from ((row, 0, float(x)) for row, x in enumerate(labels[:, column]) if not torch.isnan(x))
        return
    labels = batch.bond_labels_BT2 if level == "bond" else batch.pair_labels_PT2
    for row, both in enumerate(labels[:, column]):
        yield from ((row, d, float(x)) for d, x in enumerate(both) if not torch.isnan(x))


def one_way(batch, level, row, column):
    there, back = (batch.bond_labels_BT2 if level == "bond" else batch.pair_labels_PT2)[row, column].isnan().tolist()
    return back and not there


def plain_error(head, t, p, label):
    if head.kind == "regression":
        return abs(float(p) - (label - head.mean[t]) / head.std[t])
    if head.kind == "binary":
        probability = 1 / (1 + np.exp(-float(p)))
        return -np.log(probability if label else 1 - probability)
    shares = np.exp(p.double().numpy())
    shares /= shares.sum()
    return 0.5 * -np.log(shares[int(label)]) + 0.5 * (shares @ np.arange(len(shares)) - label) ** 2


def test_rows_of_both_directions_belong_to_the_same_ends(levels_set, tiny):
    from molstream.trainers.models.heads import find_ends

    spec = DataSpec.of(levels_set)
    batch = next(iter(Loader(levels_set, StreamConfig(budget=plan_budget(levels_set, spec, tiny), num_lanes=1)))).batches[0]
    for level in ("bond", "pair"):
        source, target = find_ends(batch, level)
        assert len(source) == len(label_columns(batch, level))
        assert torch.equal(source.view(-1, 2).flip(1), target.view(-1, 2))
        # smaller atom first, then the other way round
        assert (source[::2] <= target[::2]).all()
        assert torch.equal(batch.graph_of_atom_A[source], batch.graph_of_atom_A[target])


def test_a_label_without_direction_is_held_against_the_mean_of_both():
    head = {"bond": [True, False], "flow": [True, True], "none": [False, False], "back": [False, True]}
    prediction = torch.tensor([[1.0], [3.0]] * 4)
    mask = torch.tensor([[x] for both in head.values() for x in both])
    spec = type("Spec", (), {"heads": [type("Head", (), {"level": "bond", "name": "b"})]})
    matched = match({"b": prediction}, {"b": (torch.zeros(8, 1), mask)}, spec)["b"].flatten().tolist()
    assert matched == [2.0, 2.0, 1.0, 3.0, 1.0, 3.0, 1.0, 3.0]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_losses_are_those_of_torch(seed):
    torch.manual_seed(seed)
    p, y = torch.randn(50, 3) * 2, torch.randn(50, 3)
    for name, function in (("mae", F.l1_loss), ("mse", F.mse_loss), ("huber", F.huber_loss)):
        assert torch.allclose(ERRORS[name](p, y), function(p, y, reduction="none"))
    classes = torch.randint(0, 2, (50, 3)).float()
    assert torch.allclose(ERRORS["bce"](p, classes), F.binary_cross_entropy(p.sigmoid(), classes, reduction="none"), atol=1e-5)
    logits, bins = torch.randn(50, 3, 5), torch.randint(0, 5, (50, 3))
    entropy = torch.stack([F.cross_entropy(logits[:, t], bins[:, t], reduction="none") for t in range(3)], dim=1)
    assert torch.allclose(ERRORS["cross_entropy"](logits, bins.float()), entropy, atol=1e-6)
    expected = (logits.softmax(-1) @ torch.arange(5.0) - bins) ** 2
    assert torch.allclose(ERRORS["hybrid"](logits, bins.float()), 0.5 * entropy + 0.5 * expected, atol=1e-5)
    assert set(ERRORS) == {name for names in LOSSES.values() for name in names}


def test_uncertainty_weighs_each_task_set_and_is_counted_once_a_step(sample_set, tiny):
    spec, recipe = DataSpec.of(sample_set), replace(tiny, weighting="uncertainty", dropout=0.0)
    network = build_network(spec, recipe).eval()
    with torch.no_grad():
        network.log_variance.copy_(torch.tensor([0.7, -0.4]))
    molecules = sample_set.read_block(0)
    batches = batches_of(sample_set, molecules, np.array_split(np.arange(len(molecules)), 4), Budget(64, 1024, 2400))
    plain, counts, targets = Loss(spec, replace(recipe, weighting="mean")), count_labels(batches, spec), Targets(spec)
    means = torch.zeros(2)
    for batch in batches:
        means += plain(network(batch), targets(batch), counts)[1]
    loss, gradients = loss_and_gradients(network, spec, recipe, batches)
    s = network.log_variance.detach()
    assert loss == pytest.approx(float((torch.exp(-s) * means + s).mean()), rel=1e-5)
    assert torch.allclose(gradients["log_variance"], (1 - torch.exp(-s) * means) / 2, rtol=1e-4)


@pytest.mark.parametrize("weighting", ["mean", "uncertainty"])
def test_a_task_set_without_labels_contributes_nothing(sample_set, tiny, weighting):
    molecules, spec, recipe = sample_set.read_block(0), DataSpec.of(sample_set), replace(tiny, weighting=weighting)
    bare = molecules.replace(atom_labels=np.full_like(molecules.atom_labels, np.nan))
    batches = batches_of(sample_set, bare, [np.arange(10)], Budget(64, 1024, 2400))
    loss, gradients = loss_and_gradients(build_network(spec, recipe).eval(), spec, recipe, batches)
    assert np.isfinite(loss)
    assert all(torch.isfinite(g).all() for g in gradients.values())
    assert all((gradients[n] == 0).all() for n in gradients if n.startswith("heads.n7"))
    if weighting == "uncertainty":
        assert gradients["log_variance"][1] == 0
        assert gradients["log_variance"][0] != 0


def test_a_loss_that_does_not_fit_is_refused(levels_set, tiny):
    spec = DataSpec.of(levels_set)
    named = {head.kind: head.name for head in spec.heads}
    with pytest.raises(ValueError, match=f"losses say mae for {named['binary']}, whose tasks are binary; expected bce"):
        Loss(spec, replace(tiny, losses={named["binary"]: "mae"}))
    with pytest.raises(ValueError, match="losses or head_hiddens name g62, trained are"):
        Loss(spec, replace(tiny, losses={"g62": "mae"}))
    with pytest.raises(ValueError, match="losses or head_hiddens name pcba, trained are"):
        Loss(spec, replace(tiny, head_hiddens={"pcba": 64}))
    assert Loss(spec, replace(tiny, losses={named["ordinal"]: "cross_entropy"})).names[named["ordinal"]] == "cross_entropy"


def test_listed_labels_give_the_same_loss_as_dense_ones(sample_set, tiny):
    spec = DataSpec.of(sample_set)
    network, targets, loss = build_network(spec, tiny).eval(), Targets(spec), Loss(spec, tiny)
    totals = []
    for listed in (False, True):
        budget = plan_budget(sample_set, spec, replace(tiny, list_labels=listed, atoms_a_pack=4096))
        assert (budget.labels is not None) == listed
        total = dict.fromkeys(spec.task_sets, 0.0)
        for step in Loader(sample_set, StreamConfig(budget=budget, num_lanes=1)):
            for batch in step.batches:
                with torch.no_grad():
                    for name, value in loss.sums(network(batch), targets(batch)).items():
                        total[name] += float(value)
        totals.append(total)
    for name in spec.task_sets:
        assert totals[0][name] == pytest.approx(totals[1][name], rel=1e-5)


@pytest.mark.parametrize("layer", LAYERS)
def test_padding_stays_inert_in_deep_networks_without_norm(sample_set, tiny, layer):
    """Thousands of padding edges loop on one atom; a pack of nothing else must give gradients of 0, not of 0 times infinity."""
    spec, recipe = DataSpec.of(sample_set), replace(tiny, layer=layer, norm=False, num_layers=14, hidden=16)
    network = build_network(spec, recipe).eval()
    molecules = sample_set.read_block(0)
    nearly_empty, empty = batches_of(sample_set, molecules, [np.arange(3), np.empty(0, np.int64)], Budget(64, 1024, 8_000))
    counts = count_labels([nearly_empty, empty], spec)
    targets, loss = Targets(spec), Loss(spec, recipe)
    for batch in (nearly_empty, empty):
        network.zero_grad()
        loss(network(batch), targets(batch), counts)[0].backward()
        assert all(torch.isfinite(p.grad).all() for p in network.parameters())
        states, _ = network.encode(batch)
        assert (states[~batch.atom_mask_A] == 0).all()
    assert all((p.grad == 0).all() for p in network.parameters())


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("norm", [True, False])
def test_in_bf16_states_of_atoms_and_molecules_stay_in_full_precision(sample_set, tiny, layer, norm):
    spec, recipe = DataSpec.of(sample_set), replace(tiny, layer=layer, norm=norm, dropout=0.0, encodings=("rw16", "lap8"))
    config = StreamConfig(budget=plan_budget(sample_set, spec, recipe), num_lanes=1)
    batch = next(iter(Loader(sample_set, config, encodings=recipe.encodings))).batches[0]
    network, targets, loss = build_network(spec, recipe).eval(), Targets(spec), Loss(spec, recipe)
    _, exact = network.encode(batch)
    with torch.autocast("cpu", torch.bfloat16):
        atoms, pooled = network.encode(batch)
        predictions = network(batch)
    assert atoms.dtype == pooled.dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in predictions.values())
    assert (pooled - exact).norm() < 0.05 * exact.norm()
    loss(predictions, targets(batch), count_labels([batch], spec))[0].backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())
