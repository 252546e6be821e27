"""Streaming metrics against scikit-learn and SciPy on everything at once; over packs, devices' modes and ranks."""

import hashlib
import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr
from sklearn.metrics import (
    average_precision_score,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
    roc_auc_score,
)

from molstream.shards.store.fields import to_json
from molstream.trainers.metrics.histograms import NUM_BINS, NUM_ENDS
from molstream.trainers.metrics.metrics import CLASSES, REGRESSION, Metrics, TaskMetrics, summarize
from molstream.trainers.spec import DataSpec, HeadSpec

KINDS = {"energy": ("regression", 0), "toxic": ("binary", 2), "grade": ("ordinal", 3), "family": ("multiclass", 4)}
SEEDS = st.integers(0, 2**31)


def spec_of(num_tasks: int = 3, names: tuple[str, ...] = tuple(KINDS)) -> DataSpec:
    """Task sets of `names`; scales of regression are 2, 3, ..."""
    heads = []
    for name in names:
        kind, num_classes = KINDS[name]
        scale = tuple(2.0 + t if kind == "regression" else 1.0 for t in range(num_tasks))
        heads.append(
            HeadSpec(
                name=name,
                level="graph",
                kind=kind,
                num_classes=num_classes,
                tasks=tuple(f"{name}{t}" for t in range(num_tasks)),
                columns=tuple(range(num_tasks)),
                units=("eV",) * num_tasks,
                mean=(0.0,) * num_tasks,
                std=scale,
                clip=0.0,
                knots=(),
                trained=(True,) * num_tasks,
            )
        )
    return DataSpec(atom_features={}, bond_features={}, heads=tuple(heads))


def made(rng: np.random.Generator, rows: int, num_tasks: int = 3, names: tuple[str, ...] = tuple(KINDS)) -> tuple[dict, dict]:
    """Predictions that know something of the targets; a third of the labels are missing."""
    predictions, targets = {}, {}
    for name in names:
        kind, num_classes = KINDS[name]
        mask = torch.from_numpy(rng.random((rows, num_tasks)) < 0.7)
        if kind == "regression":
            target = rng.normal(0, 1, (rows, num_tasks))
            prediction = 0.5 * target + rng.normal(0, 1, target.shape)
        else:
            target = rng.integers(0, num_classes, (rows, num_tasks))
            logits = rng.normal(0, 1, (rows, num_tasks, num_classes)) * 2 + 1.5 * np.eye(num_classes)[target]
            prediction = logits[..., 1] - logits[..., 0] if kind == "binary" else logits
        predictions[name] = torch.from_numpy(prediction).float()
        targets[name] = (torch.from_numpy(target).float(), mask)
    return predictions, targets


def rows_of(pack: tuple[dict, dict], rows: np.ndarray) -> tuple[dict, dict]:
    """Some rows of a pack."""
    predictions, targets = pack
    return {k: v[rows] for k, v in predictions.items()}, {k: (y[rows], m[rows]) for k, (y, m) in targets.items()}


def state_of(metrics: Metrics) -> bytes:
    """All of the state that must be the same to the bit."""
    h = metrics._histograms
    return b"".join(x.numpy().tobytes() for x in (*(getattr(h, n).long() for n in h.STATE), metrics._tally))


def one_task(name: str, prediction: np.ndarray, target: np.ndarray, *, packs: int = 1) -> TaskMetrics:
    """Metrics of the only task of a task set."""
    metrics = Metrics(spec_of(1, (name,)))
    prediction, target = (torch.from_numpy(np.asarray(x))[:, None] for x in (prediction, target))
    for part in torch.arange(len(target)).chunk(packs):
        metrics.add({name: prediction[part]}, {name: (target[part].float(), torch.ones(len(part), 1, dtype=torch.bool))})
    return metrics.tasks()[name][0]


# regression


@settings(max_examples=40)
@given(
    seed=SEEDS,
    rows=st.integers(2, 300),
    parts=st.integers(1, 7),
    offset=st.sampled_from([0.0, -3.0, 1e3, 1e6]),
    width=st.sampled_from([1, 50]),
)
def test_regression_equals_scipy_and_sklearn_on_all_predictions_at_once(seed, rows, parts, offset, width):
    rng = np.random.default_rng(seed)
    target = rng.normal(offset, width, (rows, 3)).astype(np.float32)
    prediction = (target + rng.normal(0, width, (rows, 3))).astype(np.float32)
    mask = rng.random((rows, 3)) < 0.7
    pack = ({"energy": torch.from_numpy(prediction)}, {"energy": (torch.from_numpy(target), torch.from_numpy(mask))})
    metrics = Metrics(spec_of(3, ("energy",)))
    for part in np.array_split(rng.permutation(rows), parts):
        metrics.add(*rows_of(pack, part))
    for t, task in enumerate(metrics.tasks()["energy"]):
        p, y = (x[mask[:, t], t].astype(np.float64) for x in (prediction, target))
        assert (task.task, task.unit, task.count, task.nonfinite) == (f"energy{t}", "eV", len(y), 0)
        assert tuple(task.values) == REGRESSION
        if not len(y):
            assert set(task.values.values()) == {None}
            continue
        near = {"rel": 1e-6, "abs": 0}
        assert task.values["mae"] == pytest.approx(mean_absolute_error(y, p), **near)
        assert task.values["mae_raw"] == pytest.approx(mean_absolute_error(y, p) * (2 + t), **near)
        assert task.values["mean_mae"] == pytest.approx(np.abs(y).mean(), **near)
        assert task.values["rmse"] == pytest.approx(math.sqrt(mean_squared_error(y, p)), **near)
        if len(y) > 2 and np.ptp(p) > 0 and np.ptp(y) > 0:
            assert task.values["pearson"] == pytest.approx(pearsonr(p, y)[0], rel=1e-6, abs=1e-9)
        if len(y) > 1 and np.ptp(y) > 0:
            assert task.values["r2"] == pytest.approx(r2_score(y, p), rel=1e-6, abs=1e-9)


def test_many_packs_on_a_large_offset_cost_no_digits():
    rng = np.random.default_rng(0)
    y = (1e6 + rng.normal(0, 1, 20_000)).astype(np.float32)
    p = (y + rng.normal(0, 1, len(y))).astype(np.float32)
    task = one_task("energy", p, y, packs=2_000)
    p, y = p.astype(np.float64), y.astype(np.float64)
    assert task.values["pearson"] == pytest.approx(pearsonr(p, y)[0], rel=1e-9)
    assert task.values["r2"] == pytest.approx(r2_score(y, p), rel=1e-9)


def test_what_labels_do_not_define_is_none_not_zero():
    target = torch.tensor([[1.0, 2.0, 3.0, 0.0], [1.0, 5.0, 4.0, 0.0], [1.0, 7.0, 9.0, 0.0]])
    prediction = torch.tensor([[1.0, 2.0, 1.0, 0.0], [2.0, 2.0, 2.0, 0.0], [3.0, 2.0, 3.0, 0.0]])
    mask = torch.tensor([[True, True, True, False], [True, True, False, False], [True, True, False, False]])
    metrics = Metrics(spec_of(4, ("energy",)))
    metrics.add({"energy": prediction}, {"energy": (target, mask)})
    constant, flat, single, none = metrics.tasks()["energy"]
    assert (constant.values["pearson"], constant.values["r2"], constant.values["mae"]) == (None, None, 1.0)
    assert flat.values["pearson"] is None
    assert flat.values["r2"] == pytest.approx(r2_score([2, 5, 7], [2, 2, 2]))
    assert (single.count, single.values["pearson"], single.values["r2"], single.values["mae"]) == (1, None, None, 2.0)
    assert (none.count, none.nonfinite, none.values) == (0, 0, dict.fromkeys(REGRESSION))


@pytest.mark.parametrize("value", [0.1, 1e6 / 3, -7.7e-20])
def test_a_constant_is_one_whatever_the_rounding_of_its_mean(value):
    some = np.random.default_rng(1).normal(value, 1, 999).astype(np.float32)
    same = np.full(999, value, np.float32)
    assert one_task("energy", same, some, packs=37).values["pearson"] is None
    constant = one_task("energy", some, same, packs=37).values
    assert (constant["pearson"], constant["r2"]) == (None, None)


def test_float32_numbers_one_digit_apart_are_no_constant():
    y = np.array([1e6, 1e6, np.nextafter(np.float32(1e6), np.float32(2e6)), 1e6], np.float32)
    values = one_task("energy", y, y, packs=4).values
    assert (values["pearson"], values["r2"]) == (pytest.approx(1.0, rel=1e-6), 1.0)


def test_float64_numbers_that_differ_by_their_rounding_are_a_constant():
    noise = 1e6 + np.array([0, 1, 0, -1, 1]) * 1e-9
    assert one_task("energy", noise, np.arange(5.0)).values["pearson"] is None


# classes


def scores_of(case: str, rng: np.random.Generator, rows: int, prevalence: float) -> tuple[np.ndarray, np.ndarray]:
    """(logits, labels) of one case."""
    y = np.zeros(rows, bool)
    y[rng.choice(rows, max(5, int(rows * prevalence)), replace=False)] = True
    z = rng.normal(0, 1, rows) + rng.choice([0.0, 1.0, 2.0, 4.0]) * y
    wide = z + math.log(prevalence / (1.01 - prevalence))
    narrow = -4.1 + 0.2 * (z - z.min()) / np.ptp(z)
    outlier = np.arange(rows) == rng.integers(rows)
    s = {
        "normal": lambda: wide,
        "wide": lambda: 5 * wide,
        "concentrated": lambda: narrow,
        "bimodal": lambda: np.where(rng.random(rows) < 0.05 + 0.8 * y, 4, -5) + z,
        "high outlier": lambda: np.where(outlier, 1e3, wide),
        "low outlier, concentrated": lambda: np.where(outlier, -1e3, narrow),
        "ties": lambda: np.round(2 * wide) / 2,
        "fine ties": lambda: np.round(100 * wide) / 100,
        "bfloat16": lambda: torch.from_numpy(wide).bfloat16().double().numpy(),
        "a third the same": lambda: np.where(rng.random(rows) < 0.3, -1.0, wide),
        "the top cut off": lambda: np.minimum(wide, np.quantile(wide, 0.9)),
        "perfect": lambda: 0.01 * z + 10 * y,
        "inverted": lambda: 0.01 * z - 10 * y,
        "constant": lambda: np.full(rows, 0.3),
    }[case]()
    return s.astype(np.float32), y


CASES = (
    "normal", "wide", "concentrated", "bimodal", "high outlier", "low outlier, concentrated", "ties", "fine ties", "bfloat16",
    "a third the same", "the top cut off", "perfect", "inverted", "constant",
)  # fmt: skip


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize("case", CASES)
def test_auroc_and_average_precision_are_those_of_sklearn_to_a_thousandth(case, seed):
    rng = np.random.default_rng((seed, CASES.index(case)))
    for rows, prevalence in (
        (200, 0.03), (1_000, 0.5), (5_000, 0.001), (30_000, 0.01), (100_000, 0.5),
    ):  # fmt: skip
        s, y = scores_of(case, rng, rows, prevalence)
        task = one_task("toxic", s, y, packs=1 + rows // 10_000)
        # what fits in the ends is exact, and so are cases of ties alone
        near = 1e-9 if rows <= 2 * NUM_ENDS or case in ("ties", "perfect", "constant") else 1e-3
        assert task.values["auroc"] == pytest.approx(roc_auc_score(y, s), abs=near), (rows, prevalence)
        assert task.values["ap"] == pytest.approx(average_precision_score(y, s), abs=near), (rows, prevalence)
        assert task.values["accuracy"] == pytest.approx(((s > 0) == y).mean())


@pytest.mark.parametrize("num_ends_tied", [1, NUM_ENDS, NUM_ENDS + 1, 3 * NUM_ENDS])
def test_ties_across_ends_and_bins_are_one_tie(num_ends_tied):
    rng = np.random.default_rng(num_ends_tied)
    s = np.concatenate([np.full(num_ends_tied, 2.0), rng.integers(0, 40, 3_000) / 41, np.full(num_ends_tied, -2.0)]).astype(
        np.float32
    )
    y = rng.random(len(s)) < 0.3 + 0.1 * s
    values = one_task("toxic", s, y, packs=5).values
    assert values["auroc"] == pytest.approx(roc_auc_score(y, s), abs=1e-9)
    assert values["ap"] == pytest.approx(average_precision_score(y, s), abs=1e-9)


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("seed", range(2))
def test_scores_cut_off_at_a_value_are_told_from_those_beside_it(seed, side):
    rng = np.random.default_rng(seed)
    y = rng.random(100_000) < 0.01
    s = rng.normal(0, 1, len(y)) + 4 * y
    s = (side * np.minimum(s, np.quantile(s, 0.99))).astype(np.float32)
    values = one_task("toxic", s, y == (side > 0), packs=10).values
    assert values["auroc"] == pytest.approx(roc_auc_score(y == (side > 0), s), abs=2e-4)
    assert values["ap"] == pytest.approx(average_precision_score(y == (side > 0), s), abs=2e-4)


@pytest.mark.parametrize("rows", [400, 20_000])
@pytest.mark.parametrize("name", ["grade", "family"])
def test_more_classes_are_the_macro_mean_of_one_against_the_rest(name, rows):
    pack = made(np.random.default_rng(rows), rows, names=(name,))
    metrics = Metrics(spec_of(3, (name,)))
    metrics.add(*pack)
    target, mask = (x.numpy() for x in pack[1][name])
    for t, task in enumerate(metrics.tasks()[name]):
        y = target[mask[:, t], t].astype(int)
        p = torch.softmax(pack[0][name].double(), -1).numpy()[mask[:, t], t]
        near = 1e-9 if rows == 400 else 1e-3
        assert task.values["auroc"] == pytest.approx(roc_auc_score(y, p, multi_class="ovr", average="macro"), abs=near)
        assert task.values["ap"] == pytest.approx(average_precision_score(np.eye(p.shape[1])[y], p, average="macro"), abs=near)
        assert task.values["accuracy"] == pytest.approx((p.argmax(1) == y).mean())


def test_a_class_without_labels_does_not_count_in_the_mean():
    logits = torch.tensor([[[2.0, 0.0, 5.0]], [[0.0, 1.0, 0.0]], [[1.0, 3.0, 1.0]], [[1.5, 1.0, 0.0]]])
    metrics = Metrics(spec_of(1, ("grade",)))
    y = torch.tensor([[0.0], [1.0], [0.0], [1.0]])
    metrics.add({"grade": logits}, {"grade": (y, torch.ones(4, 1, dtype=torch.bool))})
    p = torch.softmax(logits[:, 0].double(), -1).numpy()
    want = [roc_auc_score(y[:, 0] == c, p[:, c]) for c in (0, 1)]
    assert metrics.tasks()["grade"][0].values["auroc"] == pytest.approx(sum(want) / 2)


def test_probabilities_that_round_to_one_are_still_ranked():
    # the softmax of class 0 is 1 in float64 for all of these
    margin = torch.tensor([60.0, 50.0, 90.0, 70.0, 80.0, 900.0])
    y = torch.tensor([1.0, 2.0, 0.0, 0.0, 1.0, 0.0])
    logits = torch.stack([margin, -margin / 9, margin / 99], dim=-1)[:, None]
    metrics = Metrics(spec_of(1, ("grade",)))
    metrics.add({"grade": logits}, {"grade": (y[:, None], torch.ones(6, 1, dtype=torch.bool))})
    ranks = (margin - margin / 99, -margin, -margin)
    want = np.mean([roc_auc_score(y == c, r) for c, r in enumerate(ranks)])
    assert metrics.tasks()["grade"][0].values["auroc"] == pytest.approx(want)


def test_class_metrics_that_labels_do_not_define_are_none():
    metrics = Metrics(spec_of(3, ("toxic", "grade")))
    y = torch.tensor([[1.0, 0.0, 0.0]] * 4)
    mask = torch.tensor([[True, True, False]] * 4)
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    metrics.add({"toxic": logits, "grade": logits[..., None].repeat(1, 1, 3)}, {"toxic": (y, mask), "grade": (y, mask)})
    for tasks in metrics.tasks().values():
        for task in tasks[:2]:
            assert (task.count, task.values["auroc"], task.values["ap"]) == (4, None, None)
            assert task.values["accuracy"] is not None
        assert (tasks[2].count, tasks[2].values) == (0, dict.fromkeys(CLASSES))


# packs


@settings(max_examples=8)
@given(seed=SEEDS, rows=st.sampled_from([30, 1_500, 4_000]), parts=st.integers(2, 9), scale=st.sampled_from([1e-4, 1.0, 1e4]))
def test_class_metrics_do_not_depend_on_packs_or_their_order_in_any_bit(seed, rows, parts, scale):
    rng = np.random.default_rng(seed)
    names = ("toxic", "grade")
    predictions, targets = made(rng, rows, 2, names)
    # scales that grow make bins coarser while packs come
    growth = torch.from_numpy(scale ** rng.random(rows)).float()
    pack = {k: v * growth.view(-1, *[1] * (v.ndim - 1)) for k, v in predictions.items()}, targets
    at_once, streamed = Metrics(spec_of(2, names)), Metrics(spec_of(2, names))
    at_once.add(*pack)
    cuts = np.sort(rng.integers(0, rows + 1, parts - 1))  # packs may be empty
    for part in np.split(rng.permutation(rows), cuts):
        streamed.add(*rows_of(pack, part))
    assert state_of(streamed) == state_of(at_once)
    assert streamed.tasks() == at_once.tasks()


def test_bins_are_the_narrowest_that_hold_the_scores_between_the_ends():
    s = np.random.default_rng(3).normal(0, 1, 50_000).astype(np.float32)
    metrics = Metrics(spec_of(1, ("toxic",)))
    for part in torch.from_numpy(s).split(1_000):
        metrics.add(
            {"toxic": part[:, None]}, {"toxic": ((part > 0)[:, None].float(), torch.ones(len(part), 1, dtype=torch.bool))}
        )
    h = metrics._histograms
    cut = np.floor(np.arcsinh(np.sort(s.astype(np.float64)))[NUM_ENDS:-NUM_ENDS] * 2.0**32).astype(np.int64)
    level = next(k for k in range(40) if (cut[-1] >> k) - (cut[0] >> k) < NUM_BINS)
    assert int(h.level) == level
    want = np.bincount((cut >> level) % NUM_BINS, minlength=NUM_BINS)
    assert np.array_equal(h.counts.sum(1)[0].numpy(), want)


def test_masked_entries_may_be_anything():
    clean, dirty = Metrics(spec_of()), Metrics(spec_of())
    predictions, targets = made(np.random.default_rng(5), 50)
    clean.add(predictions, targets)
    for name, (y, mask) in targets.items():
        for k, junk in enumerate((math.nan, math.inf, -math.inf, 1e38)):
            rows = (torch.arange(50)[:, None] % 4 == k) & ~mask
            y[rows] = junk
            predictions[name][rows] = junk
    dirty.add(predictions, targets)
    assert dirty.tasks() == clean.tasks()


@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf])
def test_a_prediction_that_is_not_finite_is_counted_and_its_task_has_no_metrics(junk):
    predictions, targets = made(np.random.default_rng(6), 50)
    clean, broken = Metrics(spec_of()), Metrics(spec_of())
    clean.add(predictions, targets)
    for name, (_, mask) in targets.items():
        rows = mask[:, 1].nonzero()[:2, 0]
        predictions[name].view(50, 3, -1)[rows, 1, -1] = junk
    broken.add(predictions, targets)
    for name, tasks in broken.tasks().items():
        want = clean.tasks()[name]
        assert tasks[0] == want[0]
        assert tasks[2] == want[2]
        assert (tasks[1].count, tasks[1].nonfinite) == (want[1].count, 2)
        assert set(tasks[1].values) == set(want[1].values)
        assert set(tasks[1].values.values()) == {None}


@pytest.mark.parametrize("label", [-1.0, 4.0, 0.5, math.nan])
def test_a_label_that_is_no_class_of_its_task_leaves_it_without_metrics(label):
    predictions, targets = made(np.random.default_rng(7), 50, names=("toxic", "family"))
    for y, mask in targets.values():
        mask[0, 0], y[0, 0] = True, label
    metrics = Metrics(spec_of(names=("toxic", "family")))
    metrics.add(predictions, targets)
    for tasks in metrics.tasks().values():
        assert [t.nonfinite for t in tasks] == [1, 0, 0]
        assert set(tasks[0].values.values()) == {None}


def test_packs_in_and_out_of_inference_mode_and_with_gradients_add_up():
    rng = np.random.default_rng(9)
    packs = [made(rng, 900) for _ in range(4)]
    plain, mixed = Metrics(spec_of()), Metrics(spec_of())
    for pack in packs:
        plain.add(*pack)
    with torch.inference_mode():
        mixed.add({k: v * 1 for k, v in packs[0][0].items()}, packs[0][1])
    mixed.add({k: v.requires_grad_() for k, v in packs[1][0].items()}, packs[1][1])
    with torch.inference_mode():
        mixed.add(*packs[2])
    mixed.add(*packs[3])
    assert mixed.tasks() == plain.tasks()
    assert not mixed._regression.state.requires_grad


def test_predictions_of_another_shape_are_refused_not_broadcast():
    predictions, targets = made(np.random.default_rng(10), 5, names=("energy",))
    with pytest.raises(AssertionError, match=r"energy: predictions \(5, 3, 1\), not \(5, 3\)"):
        Metrics(spec_of(3, ("energy",))).add({"energy": predictions["energy"][..., None]}, targets)


# summaries


def test_a_summary_is_the_mean_over_the_tasks_that_define_a_metric():
    def task(unit: str, trained: bool = True, **values: float | None) -> TaskMetrics:
        return TaskMetrics(task="t", unit=unit, trained=trained, count=1, nonfinite=0, values=values)

    same = [
        task("eV", mae=1.0, mae_raw=4.0, r2=None),
        task("eV", mae=2.0, mae_raw=5.0, r2=None),
        task("eV", mae=None, mae_raw=None, r2=None),
    ]
    assert summarize(same) == {"mae": 1.5, "mae_raw": 4.5, "r2": None}
    assert summarize([*same, task("D", mae=3.0, mae_raw=1.0, r2=0.5)]) == {"mae": 2.0, "r2": 0.5}
    assert summarize([task("", auroc=0.5, ap=None, accuracy=1.0)]) == {"auroc": 0.5, "ap": None, "accuracy": 1.0}
    assert summarize([]) == {}
    # nothing was learned of it
    assert summarize([*same, task("eV", trained=False, mae=900.0, mae_raw=900.0, r2=-4402.0)]) == summarize(same)
    # numbers without a unit may be of any scale, but for one alone
    numbers = [task("1", mae_raw=1.0), task("1", mae_raw=300.0)]
    assert summarize(numbers) == {}
    assert summarize(numbers[:1]) == {"mae_raw": 1.0}
    assert summarize([numbers[0], task("1", trained=False, mae_raw=300.0)]) == {"mae_raw": 1.0}


# ranks


def test_merging_without_a_process_group_changes_nothing():
    metrics = Metrics(spec_of())
    metrics.add(*made(np.random.default_rng(11), 50))
    before = metrics.tasks()
    metrics.merge()
    assert metrics.tasks() == before
    metrics.add(*made(np.random.default_rng(12), 50))


@pytest.mark.slow
def test_three_processes_hold_the_same_metrics_as_one(tmp_path, run_python):
    rng = np.random.default_rng(13)
    spec, num_packs = spec_of(), 8
    # packs of different scales: each rank has bins of another width
    packs = []
    for k in range(num_packs):
        predictions, targets = made(rng, 900)
        packs.append(({name: x * (0.1 + 3 * k * (name != "energy")) for name, x in predictions.items()}, targets))
        torch.save(packs[-1], tmp_path / f"pack-{k}.pt")
    rounds = [[[0, 1, 2], [7, 3], [4, 5, 6]], [[1, 0, 7, 2, 3, 4, 6], [], [5]], [[], [], list(range(num_packs))]]
    (tmp_path / "spec.json").write_text(json.dumps(to_json(spec)))
    (tmp_path / "rounds.json").write_text(json.dumps(rounds))
    worker = Path(__file__).with_name("metrics_rank.py")
    with ThreadPoolExecutor(3) as threads:
        done = list(threads.map(lambda rank: run_python(worker, tmp_path, rank), range(3)))
    assert [p.returncode for p in done] == [0, 0, 0], done[0].stderr + done[1].stderr + done[2].stderr
    ranks = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(3)]
    assert ranks[1] == ranks[0]
    assert ranks[2] == ranks[0]

    alone = Metrics(spec)
    for pack in packs:
        alone.add(*pack)
    assert all(int(x) > 0 for x in alone._histograms.level[:3])
    for got in ranks[0]:
        assert got["exact"] == hashlib.sha256(state_of(alone)).hexdigest()
        for name, tasks in alone.tasks().items():
            for task, theirs in zip(tasks, got["tasks"][name], strict=True):
                want = asdict(task)
                if name == "energy":
                    theirs["values"] = pytest.approx(theirs["values"], rel=1e-12)
                assert want == theirs
    assert ranks[0][2]["regression"] == hashlib.sha256(alone._regression.state.numpy().tobytes()).hexdigest()
