"""On a GPU: the numbers of the CPU, no wait in a step, all precisions, a stop and a resume. `pytest -m gpu`."""

import json
from dataclasses import replace

import pytest
import torch

from molstream.streamer.config import StreamConfig
from molstream.streamer.loader import Loader
from molstream.trainers.jobs.evaluate import evaluate_checkpoint, plan_budget
from molstream.trainers.layer_table import LAYERS
from molstream.trainers.models.loss import count_labels
from molstream.trainers.models.network import build_network
from molstream.trainers.runs.checkpoint import load_checkpoint
from molstream.trainers.spec import DataSpec
from molstream.trainers.training.trainer import Trainer, pretrain

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]
CUDA = torch.device("cuda")


@pytest.fixture
def free(tiny):
    """Without what is deterministic: sums over edges are not, on a GPU."""
    return replace(tiny, deterministic=False, dropout=0.0, encodings=("rw16", "lap8"))


def losses_of(run) -> list[float]:
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["kind"] == "train"]


@pytest.mark.parametrize("layer", LAYERS)
def test_predictions_are_those_of_the_cpu(sample_set, free, layer):
    recipe = replace(free, layer=layer)
    spec = DataSpec.of(sample_set)
    network = build_network(spec, recipe).eval()
    stream = StreamConfig(budget=plan_budget(sample_set, spec, recipe))
    batch = next(iter(Loader(sample_set, stream, encodings=recipe.encodings, pin_memory=True))).batches[0]
    with torch.no_grad():
        expected = network(batch)
        found = network.to(CUDA)(batch.to(CUDA))
    for name, values in expected.items():
        torch.testing.assert_close(found[name].cpu(), values, rtol=1e-3, atol=1e-4)


def test_losses_are_those_of_the_cpu(sample_set, free, tmp_path):
    # no random signs
    recipe = replace(free, encodings=("rw16",), precision="f32")
    for device in ("cpu", "cuda"):
        pretrain(sample_set, tmp_path / device, recipe, resume=False, device=device)
    assert losses_of(tmp_path / "cuda") == pytest.approx(losses_of(tmp_path / "cpu"), rel=1e-3)


@pytest.mark.parametrize("weighting", ["mean", "uncertainty"])
def test_a_step_waits_for_nothing(sample_set, free, tmp_path, weighting):
    recipe = replace(free, precision="bf16", weighting=weighting, ema_decay=0.9)
    trainer = Trainer(sample_set, tmp_path / "run", recipe, resume=False, reporter=None, num_threads=1, device="cuda")
    try:
        for step, item in enumerate(trainer.loader):
            counts = count_labels(item.batches, trainer.spec)
            # the first ones allocate
            torch.cuda.set_sync_debug_mode("error" if step > 2 else "default")
            trainer.stepper.run(item, step=step, num_labels=counts)
            torch.cuda.set_sync_debug_mode("default")
            if step == 6:
                break
    finally:
        torch.cuda.set_sync_debug_mode("default")
        trainer.close()


@pytest.mark.parametrize("precision", ["auto", "f32", "bf16", "fp16"])
@pytest.mark.parametrize("compiled", ["off", "default", "cudagraphs"])
def test_it_learns_and_goes_on_in_every_precision(sample_set, free, tmp_path, precision, compiled):
    recipe = replace(free, num_steps=40, eval_steps=20, learning_rate=3e-3, precision=precision, compile=compiled)
    polls = iter(range(10**9))
    run = tmp_path / "run"
    assert not pretrain(sample_set, run, recipe, resume=False, should_stop=lambda: next(polls) >= 15).finished
    outcome = pretrain(sample_set, run, recipe, resume=True)
    losses = losses_of(run)
    assert len(losses) == 40
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])
    assert evaluate_checkpoint(load_checkpoint(run), sample_set, split="val").loss == pytest.approx(
        outcome.results.loss, rel=1e-3
    )
    expected = "bf16" if precision == "auto" else precision
    assert json.loads((run / "config.json").read_text())["recipe"]["precision"] == expected
