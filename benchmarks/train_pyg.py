"""PyG's side of benchmarks/train.py: the same network of `GINEConv`s on batches of its DataLoader, trained as its examples do."""

import contextlib
import copy
import gc
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GINEConv, global_add_pool
from train import Rounds, parse_side, profile_steps, recipe_of

from molstream.kernels.chemistry.positional import VECTOR_SCALE, WALK_SCALES
from molstream.shards.format.reader import ShardSet
from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.loader import Loader
from molstream.trainers.config import Recipe
from molstream.trainers.models.encoders import NUM_GROUPS, NUM_PERIODS, group_and_period
from molstream.trainers.models.layers.graph import POOL_SCALE
from molstream.trainers.models.loss import Loss, Targets, count_labels
from molstream.trainers.models.network import build_network
from molstream.trainers.spec import DataSpec

DTYPES = {"bf16": torch.bfloat16}
SAME = 1e-4
"""Two losses are the same."""


class Net(nn.Module):
    """Embeddings of categories, encodings, GINEConv, norm, GELU, dropout, residual, sum pooling, two heads."""

    def __init__(self, spec: DataSpec, recipe: Recipe):
        super().__init__()
        width, out, hidden = recipe.encoder_hidden, recipe.encoder_out, recipe.hidden
        sizes = [*spec.atom_features.values(), NUM_GROUPS, NUM_PERIODS]
        self.atom_embeddings = nn.ModuleList(nn.Embedding(n, width) for n in sizes)
        self.bond_embeddings = nn.ModuleList(nn.Embedding(n, recipe.bond_hidden) for n in spec.bond_features.values())
        self.walks: nn.Module | None = None
        self.pair: nn.Module | None = None
        drop = recipe.dropout
        if recipe.encodings:
            self.walks = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 64), nn.ReLU(), nn.Dropout(drop), nn.Linear(64, 32))
            self.pair = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Dropout(drop), nn.Linear(64, 64), nn.ReLU())
            self.pair_out, self.join = nn.Linear(64, 32), nn.Linear(32, width, bias=False)
            self.register_buffer("is_first", torch.arange(8) == 0)
        self.encoder = nn.Sequential(
            nn.LayerNorm(width), nn.GELU(), nn.Dropout(drop), nn.Linear(width, out), nn.LayerNorm(out), nn.Linear(out, hidden)
        )
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for _ in range(recipe.num_layers):
            mlp = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden))
            self.convs.append(GINEConv(mlp, train_eps=True, edge_dim=recipe.bond_hidden))
            self.norms.append(nn.LayerNorm(hidden))
        self.dropout = nn.Dropout(drop)
        self.outputs = nn.ModuleList(nn.Sequential(nn.Linear(hidden, hidden), nn.GELU()) for _ in spec.heads)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(hidden, recipe.head_hidden), nn.GELU(), nn.Linear(recipe.head_hidden, len(h.tasks)))
            for h in spec.heads
        )
        self.levels = [h.level for h in spec.heads]

    def forward(self, data: Batch) -> list[Tensor]:
        x = sum(embed(data.x[:, k]) for k, embed in enumerate(self.atom_embeddings))
        if self.walks is not None and self.pair is not None:
            encoded = self.walks(data.walks)
            vectors = data.vectors
            if self.training:
                signs = 2.0 * torch.randint(0, 2, (data.num_graphs, vectors.shape[1]), device=vectors.device) - 1
                vectors = vectors * signs[data.batch]
            there = (data.eigenvalues > 0) | self.is_first
            pairs = self.pair(torch.stack([vectors, data.eigenvalues], dim=-1)) * there.unsqueeze(-1)
            encoded = encoded + self.pair_out(pairs.sum(dim=1))
            x = x + self.join(encoded)
        edges = sum(embed(data.edge_attr[:, k]) for k, embed in enumerate(self.bond_embeddings))
        x = self.encoder(x).float()
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = x + self.dropout(nn.functional.gelu(norm(conv(x, data.edge_index, edges))))
        pooled = global_add_pool(x, data.batch, size=data.num_graphs) / POOL_SCALE
        states = [out(pooled if level == "graph" else x) for level, out in zip(self.levels, self.outputs, strict=True)]
        return [head(state).float() for head, state in zip(self.heads, states, strict=True)]

    @torch.no_grad()
    def take(self, ours: Any, spec: DataSpec) -> None:
        """Take our weights."""
        embed: Any
        for embeddings, table in ((self.atom_embeddings, ours.atoms.features.table), (self.bond_embeddings, ours.bonds.table)):
            for embed, rows in zip(embeddings, table.split([e.num_embeddings for e in embeddings]), strict=True):
                embed.weight.copy_(rows)
        if self.walks is not None and self.pair is not None:
            walks, vectors = ours.atoms.encodings["rw16"], ours.atoms.encodings["lap8"]
            pairs = (self.walks, walks.mlp), (self.pair, vectors.pair), (self.pair_out, vectors.out), (self.join, ours.atoms.join)
            for module, mine in pairs:
                module.load_state_dict(mine.state_dict())
        self.encoder.load_state_dict(ours.atoms.mlp.state_dict())
        conv: Any
        for conv, norm, layer in zip(self.convs, self.norms, ours.layers, strict=True):
            conv.nn.load_state_dict(layer.conv.mlp.state_dict())
            conv.lin.load_state_dict(layer.conv.edge.state_dict())
            conv.eps.copy_(layer.conv.eps.view_as(conv.eps))
            norm.load_state_dict(layer.update.norm.state_dict())
        theirs: Any
        for output, theirs, head in zip(self.outputs, self.heads, spec.heads, strict=True):
            output.load_state_dict(ours.outputs[head.level].state_dict())
            theirs[0].load_state_dict(ours.heads[head.key].state.state_dict())
            theirs[2].load_state_dict(ours.heads[head.key].out[1].state_dict())


def make_data(batch, spec: DataSpec, graph: int) -> Data:
    """One molecule of a batch of ours, under PyG's usual names: categories as int64, labels as they are, NaN where absent."""
    first, last = batch.atom_ptr_G[graph : graph + 2].tolist()
    codes = batch.atom_codes_AF[first:last].long()
    table = torch.tensor([group_and_period(z) for z in range(spec.atom_features["element"])])
    x = torch.cat([codes, table[codes[:, list(spec.atom_features).index("element")]]], dim=1)
    inside = (batch.edge_index_2E[0] >= first) & (batch.edge_index_2E[0] < last)
    edge_attr, kinds = [], batch.edge_codes_E[inside].long()
    for size in reversed(spec.bond_features.values()):
        edge_attr.append(kinds % size)
        kinds = kinds // size
    data = Data(
        x=x,
        edge_index=batch.edge_index_2E[:, inside].long() - first,
        edge_attr=torch.stack(edge_attr[::-1], dim=1),
        y=batch.graph_labels_GT[graph : graph + 1].clone(),
        atom_y=batch.atom_labels_AT[first:last].clone(),
    )
    if batch.columns:
        data.walks = batch.columns["rwse_AK"][first:last].float() / torch.tensor(WALK_SCALES).repeat(8)
        data.vectors = batch.columns["eigenvectors_AK"][first:last].float() / VECTOR_SCALE
        data.eigenvalues = batch.columns["eigenvalues_AK"][first:last].float()
    data.num_nodes = last - first
    return data


def check_same(net: Net, spec: DataSpec, recipe: Recipe, batch, loss_of) -> float:
    """With our weights the loss of the same molecules is ours: how far apart they are, relative; on the CPU, in f32."""
    weights = copy.deepcopy(net.state_dict())
    ours = build_network(spec, recipe).eval()
    with torch.no_grad():
        # biases, norms and eps start at 0 and 1, where mistakes would not show
        for parameter in ours.parameters():
            if parameter.dim() < 2:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    net.take(ours, spec)
    net.eval()
    with torch.no_grad():
        theirs = loss_of(net, Batch.from_data_list([make_data(batch, spec, g) for g in range(batch.num_graphs)]), "f32")
        total, _ = Loss(spec, recipe)(ours(batch), Targets(spec)(batch), count_labels([batch], spec))
    net.load_state_dict(weights)
    net.train()
    apart = float((theirs - total).abs() / total)
    if not apart <= SAME:
        raise SystemExit(f"PyG's network gives {theirs}, ours {total}: not the same")
    return apart


def main() -> None:
    args = parse_side(__doc__)
    recipe, shard_set, device = recipe_of(args), ShardSet(args.set), torch.device(args.device)
    spec = DataSpec.of(shard_set)
    torch.manual_seed(0)
    net = Net(spec, recipe)
    stream = StreamConfig(budget=Budget.suggest(shard_set, atoms=args.atoms), window_molecules=4096, num_lanes=1)
    loader = Loader(shard_set, stream, encodings=recipe.encodings)
    batches = [step.batches[0] for step in loader]
    data = [make_data(batch, spec, g) for batch in batches for g in range(batch.num_graphs)]
    columns = [torch.tensor(head.columns) for head in spec.heads]
    means, stds = ([torch.tensor(getattr(head, name)).to(device) for head in spec.heads] for name in ("mean", "std"))

    def loss_of(net: Net, batch: Batch, precision: str = args.precision) -> Tensor:
        labels = [batch.y if head.level == "graph" else batch.atom_y for head in spec.heads]
        with torch.autocast(device.type, DTYPES[precision]) if precision in DTYPES else contextlib.nullcontext():
            predictions = net(batch)
        losses = []
        for k, predicted in enumerate(predictions):
            y = (labels[k][:, columns[k]] - means[k].to(labels[k].device)) / stds[k].to(labels[k].device)
            mask = ~torch.isnan(y)
            losses.append((predicted[mask] - y[mask]).abs().mean())
        return sum(losses) / len(losses)

    apart = check_same(net, spec, recipe, batches[0], loss_of)
    net.to(device)
    # so that the collector does not look through the list again and again
    gc.freeze()
    size = round(len(data) / len(batches))
    del batches
    batches_of = DataLoader(
        data,
        batch_size=size,
        shuffle=True,
        drop_last=True,
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
        pin_memory=device.type == "cuda",
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)

    def step(batch: Batch) -> None:
        batch = batch.to(device, non_blocking=True)
        optimizer.zero_grad()
        loss_of(net, batch).backward()
        nn.utils.clip_grad_norm_(net.parameters(), recipe.clip_norm)
        optimizer.step()

    def endless():
        while True:
            yield from batches_of

    items = endless()
    if args.profile:

        def steps(number: int) -> None:
            for _ in range(number):
                step(next(items))

        profile_steps(steps, args.device)
        return
    parameters = sum(p.numel() for p in net.parameters())
    rounds = Rounds(model=f"{parameters:,} parameters", step=f"{size} molecules", workers=args.workers, loss_apart=apart)
    while True:
        start, waited, molecules = time.perf_counter(), 0.0, 0
        for _ in range(recipe.log_steps):
            asked = time.perf_counter()
            batch = next(items)
            waited += time.perf_counter() - asked
            molecules += batch.num_graphs
            step(batch)
        memory = {}
        if device.type == "cuda":
            torch.cuda.synchronize()
            memory = {"gpu_bytes": torch.cuda.max_memory_allocated()}
        seconds = time.perf_counter() - start
        rounds.steps(molecules, seconds, data_wait_fraction=waited / seconds, **memory)


if __name__ == "__main__":
    main()
