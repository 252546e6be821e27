"""AUROC and average precision of N columns of scores, in constant memory, the same whatever the order of packs and ranks.

A column is a binary task, or a class of a task against the rest. Its state is a pure function of the multiset of (score, label):

    ends    the K lowest and the K highest scores themselves: small columns are exact, and so is the top of the ranking, where one
            pair decides the average precision of a few positives; an outlier does not widen the bins of the others
    counts  all between, in B bins: bin floor(asinh(score) / 2^k), k the least for which the bins in use lie in one window of B.
            Bins are aligned at zero, so those of 2^(k+1) are exact unions of those of 2^k; bin b is at b mod B, so that a window
            moves without moving counts
    edges   how many of those equal the lowest and the highest of them: scores that are cut off at a value are many there, which
            must be told from the few beside them

            k:     ... | 4 | 5 | 6 | 7 | 8 | ...          k + 1:     ... |  2  |  3  |  4  | ...

Each count is split by one bit of a hash of the score. Many equal scores in a bin fall to one side, as many different ones to both
by halves (the tug-of-war sketch of Alon, Matias and Szegedy 1996), which tells ties from scores that a bin hides the order of.

Memory a column: 16 K + 16 B bytes, 24 KiB (40 KiB after `merge`, in int64); nothing grows with labels or packs.
"""

import torch
import torch.distributed as dist
from torch import Tensor

NUM_BINS = 1024
NUM_ENDS = 512
"""K, at each end."""

_FINEST = 32
"""asinh(score) is cut to 2^-32: finer than float32 scores beyond 0.002, and far finer than a rank needs about 0."""
_NONE = 2**62
"""Key of no score; above all keys."""
_CHUNK = 128
"""Columns whose metrics are computed at once: bounds the memory of doing so."""


def _keys(scores: Tensor, positive: Tensor, valid: Tensor) -> Tensor:
    """(score, label) as integers that sort as scores do. float64, bool, bool -> int64 of the same shape."""
    cut = torch.floor(torch.asinh(scores.clamp(-1e38, 1e38)) * 2.0**_FINEST).to(torch.int64)
    return torch.where(valid, cut * 2 + positive, _NONE)


def _hash(cut: Tensor) -> Tensor:
    """A bit of each score, 0 or 1."""
    return (((cut & 0x7FFFFFFF) * 0x9E3779B1) >> 37) & 1


def _split_ends(keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Keys (n, 2 K + M) -> ends (n, 2 K): the lowest, then the highest; what is between (n, M), and where that is a key."""
    keys = keys.sort(dim=1).values
    num = (keys < _NONE).sum(dim=1, keepdim=True)
    slots = torch.arange(NUM_ENDS, 2 * NUM_ENDS, device=keys.device)
    high = slots + num - 2 * NUM_ENDS
    # fewer than 2 K keys: none is in both halves
    upper = torch.where(high >= NUM_ENDS, keys.gather(1, high.clamp(min=0)), _NONE)
    between = torch.arange(NUM_ENDS, keys.shape[1] - NUM_ENDS, device=keys.device)
    return (
        torch.cat([keys[:, :NUM_ENDS], upper], dim=1),
        keys[:, NUM_ENDS : keys.shape[1] - NUM_ENDS],
        between < num - NUM_ENDS,
    )


class Histograms:
    """Scores of N columns."""

    STATE = ("ends", "low", "high", "edges", "level", "counts")

    def __init__(self, num_columns: int, device: torch.device):
        self.ends = torch.full((num_columns, 2 * NUM_ENDS), _NONE, dtype=torch.int64, device=device)
        self.low = torch.full((num_columns,), _NONE, dtype=torch.int64, device=device)
        self.high = -self.low
        """Of the scores in bins, cut to 2^-32."""
        self.edges = torch.zeros(num_columns, 2, 2, dtype=torch.int64, device=device)
        """How many scores in bins equal `low` and `high`: column x (low, high) x label."""
        self.level = torch.zeros_like(self.low)
        """A bin is 2^(level - 32) wide."""
        # label x hash x bin. int32: a bin holds at most the labels that one rank saw of one task, 2^31; sums over ranks are int64
        self.counts = torch.zeros(num_columns, 4, NUM_BINS, dtype=torch.int32, device=device)

    def add(self, parts: list[tuple[slice, Tensor, Tensor, Tensor]]) -> None:
        """Add (columns, score (M, n) float64, positive (M, n), valid (M, n)), a part a task set. One host sync for all."""
        inner = []
        for columns, scores, positive, valid in parts:
            keys = torch.cat([self.ends[columns], _keys(scores, positive, valid).T], dim=1)
            self.ends[columns], keys, there = _split_ends(keys)
            inner.append((columns, keys, there))
        self._count(inner)

    def _count(self, parts: list[tuple[slice, Tensor, Tensor]]) -> None:
        """Count keys (n, M) where `there` (n, M) in the bins of `columns`."""
        old = self.low >> self.level
        for columns, keys, there in parts:
            if not keys.shape[1]:
                continue
            cut, label = keys >> 1, keys & 1
            low = torch.minimum(self.low[columns], torch.where(there, cut, _NONE).amin(1))
            high = torch.maximum(self.high[columns], torch.where(there, cut, -_NONE).amax(1))
            self._move_edges(columns, low, high)
            for edge, end in enumerate((low, high)):
                for positive in (0, 1):
                    self.edges[columns, edge, positive] += (there & (cut == end[:, None]) & (label == positive)).sum(1)
        self._widen(old)
        for columns, keys, there in parts:
            cut = keys >> 1
            rows = torch.arange(len(self.level), device=cut.device)[columns, None]
            cells = ((rows * 2 + (keys & 1)) * 2 + _hash(cut)) * NUM_BINS + ((cut >> self.level[columns, None]) & (NUM_BINS - 1))
            self.counts.view(-1).index_add_(0, cells.reshape(-1), there.to(self.counts.dtype).reshape(-1))

    def _move_edges(self, columns: slice, low: Tensor, high: Tensor) -> None:
        """Set low and high; what equalled others that were there is no edge any more."""
        same = torch.stack([low == self.low[columns], high == self.high[columns]], dim=1)
        self.edges[columns] *= same[..., None]
        self.low[columns], self.high[columns] = low, high

    def _widen(self, old: Tensor) -> None:
        """Raise levels to the least that low and high allow, and gather bins; `old` (N,) is the first bin until now."""
        levels = torch.arange(_FINEST, device=old.device)
        level = (((self.high[:, None] >> levels) - (self.low[:, None] >> levels)) >= NUM_BINS).sum(dim=1)
        rows = (level > self.level).nonzero().squeeze(1)  # the host sync
        for some in rows.split(_CHUNK):
            first = old[some, None]
            bins = first + ((torch.arange(NUM_BINS, device=old.device) - first) & (NUM_BINS - 1))
            bins = (bins >> (level - self.level)[some, None]) & (NUM_BINS - 1)
            was = self.counts[some]
            self.counts[some] = torch.zeros_like(was).scatter_add_(2, bins[:, None].expand_as(was), was)
        self.level = level

    def merge(self, device: torch.device) -> None:
        """Scores of all ranks; `device` is one that the process group works on. Collective."""
        home, rank = self.low.device, dist.get_rank()
        for name in self.STATE:
            setattr(self, name, getattr(self, name).to(device))
        everything, mine = slice(0, len(self.low)), self.ends
        self.ends = torch.full_like(mine, _NONE)
        for source in range(dist.get_world_size()):
            # one rank's at a time: memory does not grow with ranks
            theirs = mine.clone() if rank == source else torch.empty_like(mine)
            dist.broadcast(theirs, source)
            self.ends, keys, there = _split_ends(torch.cat([self.ends, theirs], dim=1))
            self._count([(everything, keys, there & (rank == 0))])
        old, low, high = self.low >> self.level, self.low.clone(), self.high.clone()
        dist.all_reduce(low, dist.ReduceOp.MIN)
        dist.all_reduce(high, dist.ReduceOp.MAX)
        self._move_edges(everything, low, high)
        self._widen(old)
        dist.all_reduce(self.edges)
        self.counts = self.counts.long()
        dist.all_reduce(self.counts)
        for name in self.STATE:
            setattr(self, name, getattr(self, name).to(home))

    def values(self) -> tuple[Tensor, Tensor]:
        """AUROC and average precision (N,), float64; NaN where a column lacks positives or negatives."""
        parts = [self._values(slice(k, k + _CHUNK)) for k in range(0, len(self.low), _CHUNK)]
        auroc, ap = zip(*parts, strict=True) if parts else ((torch.zeros(0),), (torch.zeros(0),))
        return torch.cat(auroc), torch.cat(ap)

    def _values(self, columns: slice) -> tuple[Tensor, Tensor]:
        """Both metrics of some columns: sums over the ranking from the highest score down, ends and bins."""
        # on the CPU, once an evaluation: on a GPU sums of floats along a row are not deterministic
        state = (t[columns].cpu() for t in (self.ends, self.counts, self.edges, self.low, self.high, self.level))
        keys, counts, edges, low, high, level = state
        counts, edges = counts.double(), edges.clone()
        low, high, level = low[:, None], high[:, None], level[:, None]
        # edges leave their bins and rank with the ends, some of which they may equal; a single score is one edge
        edges[:, 0] *= low < high
        cut, label = torch.cat([low, low, high, high], dim=1), torch.tensor([0, 1, 0, 1], device=keys.device)
        cells = (label * 2 + _hash(cut)) * NUM_BINS + ((cut >> level) & (NUM_BINS - 1))
        counts = counts.flatten(1).scatter_add(1, cells, -edges.flatten(1).double()).view_as(counts)
        weights = torch.cat([(keys < _NONE).double(), edges.flatten(1).double()], dim=1)
        keys = torch.cat([keys, torch.where(edges.flatten(1) > 0, cut * 2 + label, _NONE)], dim=1)
        keys, rank = keys.sort(dim=1, descending=True)
        weights = weights.gather(1, rank)
        order = ((high >> level) - torch.arange(NUM_BINS, device=keys.device)) & (NUM_BINS - 1)
        counts = counts.gather(2, order[:, None].expand_as(counts)).unflatten(1, (2, 2))
        negative, positive = counts.sum(2).unbind(1)

        cut = keys >> 1
        one_p, one_n = (weights * (keys & 1 == label) for label in (1, 0))
        below = cut < high
        tp = one_p.cumsum(1) + below * positive.sum(1, keepdim=True)
        fp = one_n.cumsum(1) + below * negative.sum(1, keepdim=True)
        # first and last of each run of equal scores
        slots = torch.arange(keys.shape[1], device=keys.device).expand_as(keys)
        new = torch.ones_like(below)
        new[:, 1:] = cut[:, 1:] != cut[:, :-1]
        first = torch.where(new, slots, 0).cummax(1).values
        last = torch.where(new.roll(-1, 1), slots, keys.shape[1]).flip(1).cummin(1).values.flip(1)
        tp_last, fp_last = tp.gather(1, last), fp.gather(1, last)
        tp_first = (tp - one_p).gather(1, first)
        wins = (one_n * (tp_first + tp_last) / 2).sum(1)
        precision = (one_p * tp_last / (tp_last + fp_last).clamp(min=1)).sum(1)

        tp, fp = (one_p * ~below).sum(1, keepdim=True), (one_n * ~below).sum(1, keepdim=True)
        wins_of_bins, precision_of_bins = _of_bins(tp, fp, counts)
        wins, precision = wins + wins_of_bins, precision + precision_of_bins
        num_p, num_n = one_p.sum(1) + positive.sum(1), one_n.sum(1) + negative.sum(1)
        both = (num_p > 0) & (num_n > 0)
        nan = torch.full_like(num_p, torch.nan)
        return torch.where(both, wins / (num_p * num_n), nan), torch.where(both, precision / num_p, nan)


def _of_bins(tp: Tensor, fp: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over bins of (positives that outrank a negative, ties a half; precision at the positives), each (n,).

    `tp` positives and `fp` negatives (n, 1) rank above all bins. `counts` (n, label, hash, B) is from the highest bin down. The
    scores of a bin are one tie, or all different, or a tie in the middle of different ones.
    """
    negative, positive = counts.sum(2).unbind(1)
    num, (lean_n, lean_p) = negative + positive, (counts[:, :, 0] - counts[:, :, 1]).unbind(1)
    lean = lean_n + lean_p
    side, size = lean.sign(), lean.abs()
    # different scores lean by the square root of their number, here with four standard deviations to spare
    is_tied, all_tied = size > 4 * num.sqrt(), size == num
    tie_n, tie_p = (
        torch.where(all_tied, x, torch.where(is_tied, (side * d).clamp(min=0), 0))
        for x, d in ((negative, lean_n), (positive, lean_p))
    )
    upper = torch.where(tie_n + tie_p > 0, 0.5, 1.0)
    upper_n, upper_p = (negative - tie_n) * upper, (positive - tie_p) * upper
    lower_n, lower_p = negative - tie_n - upper_n, positive - tie_p - upper_p
    tp, fp = tp + positive.cumsum(1) - positive, fp + negative.cumsum(1) - negative
    tp_tie, fp_tie = tp + upper_p + tie_p, fp + upper_n + tie_n
    wins = upper_n * (tp + upper_p / 2) + tie_n * (tp_tie - tie_p / 2) + lower_n * (tp_tie + lower_p / 2)
    precision = (
        _precision_spread(tp, fp, upper_p, upper_n)
        + tie_p * tp_tie / (tp_tie + fp_tie).clamp(min=1)
        + _precision_spread(tp_tie, fp_tie, lower_p, lower_n)
    )
    return wins.sum(1), precision.sum(1)


def _precision_spread(tp: Tensor, fp: Tensor, p: Tensor, n: Tensor) -> Tensor:
    """Sum over i = 1 .. p of (tp + i) / (tp + i + fp + n i / (p + 1)): p positives spread evenly among n negatives.

    In closed form: with d = 1 + n / (p + 1) and q = (tp + fp) / d a term is (1 + (tp - q) / (i + q)) / d, and the sum of the
    1 / (i + q) is a difference of digamma functions.
    """
    d = 1 + n / (p + 1)
    q = (tp + fp) / d
    return (p + (tp - q) * (torch.digamma(p + 1 + q) - torch.digamma(1 + q))) / d
