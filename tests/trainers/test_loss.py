"""Loss and gradients depend on molecules and labels, not on how they were packed."""

import numpy as np
import pytest
import torch

from kernels.permutation import shuffled
from streamer import Budget
from streamer.batch import Layout
from streamer.window import Window, collate
from trainers.loss import Targets, count_labels, masked_mae
from trainers.model import build_network
from trainers.spec import DataSpec


def batches_of(shard_set, molecules, packs: list[np.ndarray], budget: Budget):
    ptr = np.concatenate([[0], np.cumsum([len(p) for p in packs])])
    window = Window.of(molecules, (ptr, np.concatenate(packs)))
    num_features = len(shard_set.manifest.atom_features)
    layout = Layout.of(budget, num_features=num_features, num_graph_tasks=62, num_atom_tasks=7)
    return [collate(window, k, layout=layout) for k in range(len(packs))]


def loss_and_gradients(network, targets, spec, batches):
    network.zero_grad()
    counts = count_labels(batches, spec)
    total = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        loss, _ = masked_mae(network(batch), targets(batch), counts)
        loss.backward()
        total += loss.detach().double()
    return float(total), {n: p.grad.clone() for n, p in network.named_parameters()}


@pytest.mark.parametrize("seed", [0, 1])
def test_packing_and_padding_change_neither_loss_nor_gradients(sample_set, tiny, seed):
    molecules = sample_set.read_block(0)
    spec = DataSpec.of(sample_set)
    network, targets = build_network(spec, tiny).eval().double(), Targets(spec)
    n = len(molecules)
    order = shuffled(n, key=seed)
    layouts = [
        ([np.arange(n)], Budget(128, 2048, 4608)),
        ([np.arange(n)], Budget(256, 4096, 9216)),
        (np.array_split(order, 3), Budget(64, 1024, 2400)),
        ([*np.array_split(order, 5), np.empty(0, np.int64)], Budget(64, 1024, 2400)),
        ([order[:1], order[1:7], order[7:]], Budget(128, 2048, 4608)),
    ]
    results = [loss_and_gradients(network, targets, spec, batches_of(sample_set, molecules, *layout)) for layout in layouts]
    loss, gradients = results[0]
    assert loss > 0
    for other, other_gradients in results[1:]:
        # the head's output is f32 by design, everything before it is f64 here
        assert other == pytest.approx(loss, rel=1e-6)
        for name, gradient in gradients.items():
            scale = gradient.abs().max()
            assert (other_gradients[name] - gradient).abs().max() <= 1e-5 * scale + 1e-12, name


def test_the_loss_is_the_mean_absolute_error_of_each_task_set_averaged(sample_set, tiny):
    molecules, spec = sample_set.read_block(0), DataSpec.of(sample_set)
    network, targets = build_network(spec, tiny).eval(), Targets(spec)
    batches = batches_of(sample_set, molecules, np.array_split(np.arange(len(molecules)), 4), Budget(64, 1024, 2400))
    loss, _ = loss_and_gradients(network, targets, spec, batches)
    errors = {head.name: [] for head in spec.heads}
    with torch.no_grad():
        for batch in batches:
            predictions = network(batch)
            for head in spec.heads:
                labels = batch.graph_labels_GT if head.level == "graph" else batch.atom_labels_AT
                for t in range(len(head.tasks)):
                    for row in range(len(labels)):
                        if not torch.isnan(labels[row, t]):
                            y = (float(labels[row, t]) - head.mean[t]) / head.std[t]
                            errors[head.name].append(abs(float(predictions[head.name][row, t]) - y))
    assert loss == pytest.approx(np.mean([np.mean(e) for e in errors.values()]), rel=1e-4)


def test_a_task_set_without_labels_contributes_nothing(sample_set, tiny):
    from dataclasses import replace

    molecules, spec = sample_set.read_block(0), DataSpec.of(sample_set)
    bare = replace(molecules, atom_labels=np.full_like(molecules.atom_labels, np.nan))
    batches = batches_of(sample_set, bare, [np.arange(10)], Budget(64, 1024, 2400))
    network, targets = build_network(spec, tiny).eval(), Targets(spec)
    loss, gradients = loss_and_gradients(network, targets, spec, batches)
    assert np.isfinite(loss)
    assert all(torch.isfinite(g).all() for g in gradients.values())
    assert all((gradients[n] == 0).all() for n in gradients if n.startswith("heads.n7"))
