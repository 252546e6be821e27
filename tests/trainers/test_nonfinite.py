"""Steps that are not finite change nothing, are named with their molecules, and stop a run or are skipped."""

import json
from dataclasses import replace

import pytest
import torch

from molstream.kernels.rng.hashing import mix_key
from molstream.streamer.config import StreamConfig
from molstream.streamer.loader import Loader
from molstream.trainers.jobs.evaluate import plan_budget
from molstream.trainers.models.loss import Loss
from molstream.trainers.runs.checkpoint import load_checkpoint
from molstream.trainers.spec import DataSpec
from molstream.trainers.training.nonfinite import MOST_IN_A_ROW, NONFINITE, NonfiniteCheck
from molstream.trainers.training.trainer import pretrain


class _InfiniteGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.inf


SPOIL = {
    "a loss of NaN": lambda total: total * torch.nan,
    # its gradient alone would be finite
    "an infinite loss": lambda total: total + torch.inf,
    "a gradient": _InfiniteGradient.apply,
}


@pytest.fixture
def spoil(monkeypatch, tiny):
    """spoil(what, steps, lane): what becomes of the loss of that lane at these steps."""

    def patch(what: str, steps, lane: int = 1) -> None:
        seeds = {mix_key(tiny.seed, step, lane) >> 1 for step in steps}
        call = Loss.__call__

        def spoiled(self, *args, **kwargs):
            total, shares = call(self, *args, **kwargs)
            return (SPOIL[what](total) if torch.initial_seed() in seeds else total), shares

        monkeypatch.setattr(Loss, "__call__", spoiled)

    return patch


@pytest.fixture
def late(monkeypatch):
    """The check looks one step later, as on a GPU."""
    start = NonfiniteCheck.__init__

    def patched(self, *args, **kwargs):
        start(self, *args, **kwargs)
        self.delay = 1

    monkeypatch.setattr(NonfiniteCheck, "__init__", patched)


def ids_of(sample_set, recipe, step: int) -> list[list[int]]:
    spec = DataSpec.of(sample_set)
    stream = StreamConfig(
        budget=plan_budget(sample_set, spec, recipe),
        seed=recipe.seed,
        num_lanes=recipe.num_lanes,
        window_molecules=recipe.window_molecules,
    )
    for k, item in enumerate(Loader(sample_set, stream, with_ids=True)):
        if k == step:
            return [batch.ids.tolist() for batch in item.batches]
    raise AssertionError


def assert_same_state(a, b) -> None:
    assert a.step == b.step
    assert a.cursor == b.cursor
    for name, weight in b.model.items():
        assert torch.equal(a.model[name], weight), name
    for name, weight in (b.average or {}).items():
        assert torch.equal(a.average[name], weight), name
    for k, state in b.optimizer["state"].items():
        assert all(torch.equal(a.optimizer["state"][k][name], value) for name, value in state.items()), k


def stop_after(steps: int):
    polls = iter(range(10**9))
    return lambda: next(polls) >= steps


@pytest.mark.parametrize("what", SPOIL)
@pytest.mark.parametrize("when", ["at once", "late"])
def test_a_step_that_is_not_finite_stops_the_run_as_it_was_before_it(request, sample_set, tiny, tmp_path, spoil, what, when):
    if when == "late":
        request.getfixturevalue("late")
    # no log line looks in between: with a check that is late, the next step has been done
    recipe = replace(tiny, eval_steps=100, log_steps=100, ema_decay=0.9)
    pretrain(sample_set, tmp_path / "before", recipe, resume=False, should_stop=stop_after(3))
    spoil(what, [3])
    run = tmp_path / "run"
    kind = "gradient" if what == "a gradient" else "loss"
    with pytest.raises(ValueError, match=f"{kind} is not finite at step 3; this step changed no weights"):
        pretrain(sample_set, run, recipe, resume=False)
    assert_same_state(load_checkpoint(run), load_checkpoint(tmp_path / "before"))
    ids = ids_of(sample_set, recipe, 3)
    lanes = [0, 1, 2] if what == "a gradient" else [1]
    (line,) = map(json.loads, (run / NONFINITE).read_text().splitlines())
    assert line == {
        "step": 3,
        "epoch": 0,
        "loss_is_finite": what == "a gradient",
        "packs": [{"lane": lane, "ids": ids[lane]} for lane in lanes],
    }
    assert ids[1]


@pytest.mark.parametrize("when", ["at once", "late"])
def test_steps_that_are_skipped_change_nothing_and_are_counted(request, sample_set, tiny, tmp_path, spoil, when, reporter):
    if when == "late":
        request.getfixturevalue("late")
    recipe = replace(tiny, nonfinite="skip", save_steps=1, eval_steps=100, keep_checkpoints=20, ema_decay=0.9)
    spoil("an infinite loss", [3, 7])
    run = tmp_path / "run"
    assert pretrain(sample_set, run, recipe, resume=False, reporter=reporter).finished
    at = {step: load_checkpoint(run / "checkpoints" / f"step-{step:08d}") for step in range(1, 13)}
    assert [at[step].num_skipped for step in (3, 4, 7, 8, 12)] == [0, 1, 1, 2, 2]
    for before, after in ((3, 4), (7, 8)):
        assert_same_state(replace(at[after], step=before, cursor=at[before].cursor), at[before])
    assert any(not torch.equal(at[5].model[name], weight) for name, weight in at[4].model.items())
    assert [values["skipped_steps"] for _, values in reporter.steps] == [0] * 3 + [1] * 4 + [2] * 5
    # a step that was skipped has no part in a mean, and a line of nothing else has none
    losses = [values["loss"] for _, values in reporter.steps]
    assert [k for k, loss in enumerate(losses) if loss is None] == [3, 7]
    assert all(loss is None or 0 <= loss < 5 for loss in losses)
    assert [json.loads(line)["step"] for line in (run / NONFINITE).read_text().splitlines()] == [3, 7]


def test_a_run_that_stopped_goes_on_past_the_step_when_told_to_skip(sample_set, tiny, tmp_path, spoil):
    spoil("a loss of NaN", [3])
    recipe = replace(tiny, eval_steps=100)
    pretrain(sample_set, tmp_path / "whole", replace(recipe, nonfinite="skip"), resume=False)
    for _ in range(2):
        with pytest.raises(ValueError, match="not finite at step 3"):
            pretrain(sample_set, tmp_path / "run", recipe, resume=(tmp_path / "run").exists())
    pretrain(sample_set, tmp_path / "run", replace(recipe, nonfinite="skip"), resume=True)
    a, b = load_checkpoint(tmp_path / "run"), load_checkpoint(tmp_path / "whole")
    assert_same_state(a, b)
    assert a.num_skipped == b.num_skipped == 1


def test_skipped_steps_between_others_never_end_a_run_and_are_counted_over_stops(sample_set, tiny, tmp_path, spoil):
    steps = range(0, 2 * MOST_IN_A_ROW + 12, 2)
    spoil("a loss of NaN", steps)
    recipe = replace(tiny, nonfinite="skip", num_steps=steps.stop, eval_steps=100, num_lanes=2)
    pretrain(sample_set, tmp_path / "run", recipe, resume=False, should_stop=stop_after(5))
    assert pretrain(sample_set, tmp_path / "run", recipe, resume=True).finished
    assert load_checkpoint(tmp_path / "run").num_skipped == len(steps) > MOST_IN_A_ROW


def test_a_run_in_which_nothing_is_finite_any_more_is_given_up(sample_set, tiny, tmp_path, spoil):
    spoil("a loss of NaN", range(2, 100))
    recipe = replace(tiny, nonfinite="skip", num_steps=50, eval_steps=100, num_lanes=2)
    with pytest.raises(ValueError, match=f"{MOST_IN_A_ROW + 1} steps in a row were not finite, the last of them step 22"):
        pretrain(sample_set, tmp_path / "run", recipe, resume=False)


def test_fp16_halves_its_scale_until_gradients_fit_and_goes_on_to_the_same_bits(sample_set, tiny, tmp_path, reporter):
    recipe = replace(tiny, precision="fp16", eval_steps=100, weight_decay=0.01)
    pretrain(sample_set, tmp_path / "whole", recipe, resume=False, reporter=reporter)
    # losses are about 1, so 2^16 of them overflow a half-precision gradient somewhere or not at all: either is right
    losses = [loss for _, values in reporter.steps if (loss := values["loss"]) is not None]
    assert 0 < losses[-1] < losses[0] < 2
    pretrain(sample_set, tmp_path / "run", recipe, resume=False, should_stop=stop_after(5))
    pretrain(sample_set, tmp_path / "run", recipe, resume=True)
    a, b = load_checkpoint(tmp_path / "run"), load_checkpoint(tmp_path / "whole")
    assert_same_state(a, b)
    assert a.scaler == b.scaler
    assert a.scaler["scale"] >= 1


def test_an_overflow_in_fp16_is_no_fault_of_the_data(sample_set, tiny, tmp_path, spoil):
    spoil("a gradient", [2])
    recipe = replace(tiny, precision="fp16", eval_steps=100)
    assert pretrain(sample_set, tmp_path / "run", recipe, resume=False).finished
    checkpoint = load_checkpoint(tmp_path / "run")
    assert checkpoint.num_skipped >= 1
    assert checkpoint.scaler["scale"] <= 2**15
    assert not (tmp_path / "run" / NONFINITE).exists()
