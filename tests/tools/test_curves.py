"""The plot of a run: there after each, finished or stopped; a run without matplotlib or with a damaged log is none the worse."""

import json
import struct
import sys

import pytest

from molstream.tools import curves
from molstream.tools.curves import MAX_POINTS, plot_run
from molstream.trainers.runs.log import LOG, read_log

pytestmark = pytest.mark.usefixtures("plots")


def check_png(path) -> None:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (1210, 770)
    assert data[-8:-4] == b"IEND"
    assert len(data) > 20_000


def drawn(run, monkeypatch) -> dict[str, int]:
    """{what is drawn: points}."""
    found = {}

    def record(axes, lines, name, **style):
        points = sum(line.get(name) is not None for line in lines)
        if points:
            found[name] = points
        draw(axes, lines, name, **style)

    draw = curves._draw
    with monkeypatch.context() as patch:
        patch.setattr(curves, "_draw", record)
        assert plot_run(run) == run / "run.png"
    return found


def test_a_finished_run_has_a_plot_which_is_named(succeed, shard_set, tmp_path):
    done = succeed("pretrain", shard_set, "--out", tmp_path / "run", "--recipe", "smoke", "--steps", 6)
    check_png(tmp_path / "run" / "run.png")
    assert f"  plot     {tmp_path / 'run' / 'run.png'}" in done.lines
    assert [p.name for p in (tmp_path / "run").glob(".*")] == [".lock"]


def test_a_run_stopped_before_its_first_log_line_has_none_and_no_error(run, tmp_path):
    assert plot_run(tmp_path) is None
    (tmp_path / LOG).write_text("")
    assert plot_run(tmp_path) is None
    (tmp_path / LOG).write_text((run / LOG).read_text().splitlines()[-1] + "\n")
    assert read_log(tmp_path)[0]["kind"] == "validation"
    assert plot_run(tmp_path) is None
    assert [p.name for p in tmp_path.iterdir()] == [LOG]


def test_the_plot_has_every_task_set_in_training_and_validation(copy_run, monkeypatch):
    log = read_log(copy_run)
    train, validation = (sum(line["kind"] == kind for line in log) for kind in ("train", "validation"))
    assert (train, validation) == (3, 2)
    assert drawn(copy_run, monkeypatch) == {
        **dict.fromkeys(("loss_g62", "loss_n7", "learning_rate", "gradient_norm", "graphs_per_s", "data_wait_fraction"), train),
        **{f"{name}_{metric}": validation for name in ("g62", "n7") for metric in ("loss", "mae", "mean_mae")},
    }


def test_class_tasks_are_plotted_by_auroc_and_average_precision(kinds_run, monkeypatch, tmp_path):
    (tmp_path / LOG).write_bytes((kinds_run / LOG).read_bytes())
    found = drawn(tmp_path, monkeypatch)
    for name in ("graph_binary", "graph_ordinal3", "graph_multiclass4"):
        assert {f"loss_{name}", f"{name}_loss", f"{name}_auroc", f"{name}_ap"} <= set(found)
    assert {"bond_mae", "pair_mae", "atom_mae", "graph_mae"} <= set(found)


def test_a_long_log_is_thinned_and_keeps_its_last_line(tmp_path, monkeypatch):
    lines = [{"kind": "train", "step": k, "loss": 1.0, "loss_a": 1 / k, "gradient_norm": 1.0} for k in range(1, 5003)]
    (tmp_path / LOG).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert MAX_POINTS / 2 < drawn(tmp_path, monkeypatch)["loss_a"] <= MAX_POINTS + 1
    assert curves._thin(lines)[-1] == lines[-1]
    assert curves._thin([]) == []


def test_without_matplotlib_a_run_ends_well_and_says_how_to_get_its_plot(succeed, shard_set, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match="matplotlib"):
        from matplotlib import rc_context  # noqa: F401
    done = succeed("pretrain", shard_set, "--out", tmp_path / "run", "--recipe", "smoke", "--steps", 2)
    assert "  plot     not drawn: pip install matplotlib" in done.lines
    assert not (tmp_path / "run" / "run.png").exists()
    assert json.loads((tmp_path / "run" / "results.json").read_text())["step"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("tail", [b'{"kind": "train", "st', b"\xff\xfe\n", b"3\n", b'{"kind": 1, "step": "x"}\n', b"\n\n"])
@pytest.mark.parametrize("where", ["last", "first"])
def test_a_damaged_line_of_the_log_is_left_out_of_the_plot(copy_run, monkeypatch, tail, where):
    before = drawn(copy_run, monkeypatch)
    text = (copy_run / LOG).read_bytes()
    (copy_run / LOG).write_bytes(text + tail if where == "last" else tail.rstrip(b"\n") + b"\n" + text)
    assert drawn(copy_run, monkeypatch) == before
    check_png(copy_run / "run.png")


def test_a_number_that_is_no_number_is_left_out(copy_run, monkeypatch):
    before = drawn(copy_run, monkeypatch)
    line = read_log(copy_run)[0] | {"step": 13, "loss_g62": "much", "gradient_norm": None}
    with (copy_run / LOG).open("a") as file:
        file.write(json.dumps(line) + "\n")
    after = drawn(copy_run, monkeypatch)
    assert after["loss_n7"] == before["loss_n7"] + 1
    assert after["gradient_norm"] == before["gradient_norm"]


@pytest.mark.parametrize("tail", [b"\xff\xfe\0\n"])
def test_going_on_with_a_run_mends_a_damaged_log(succeed, shard_set, copy_run, tail):
    text = (copy_run / LOG).read_bytes()
    (copy_run / LOG).write_bytes(text + tail)
    succeed("pretrain", shard_set, "--out", copy_run, "--resume")
    assert (copy_run / LOG).read_bytes() == text
    check_png(copy_run / "run.png")


def test_losses_are_drawn_on_a_logarithmic_axis(copy_run, monkeypatch):
    axes_of = {}
    draw = curves._draw

    def record(axes, lines, name, **style):
        axes_of[name] = axes
        draw(axes, lines, name, **style)

    monkeypatch.setattr(curves, "_draw", record)
    assert plot_run(copy_run)
    assert {name: axes_of[name].get_yscale() for name in ("loss_g62", "g62_loss", "g62_mae")} == {
        "loss_g62": "log",
        "g62_loss": "log",
        "g62_mae": "linear",
    }
