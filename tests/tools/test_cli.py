"""What all subcommands share: help, exit codes, the one line of an error, --debug, interrupts and pipes."""

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
import typer

from molstream.shards.errors import InputError
from molstream.tools import app, main

OPTIONS = {
    "build": "INPUT... --out --dataset --smiles-column --id-column --graph-columns --atom-columns --atom-order "
    "--bond-columns --pair-columns --task-kind --quoting --table --join --splits --split-column --rename-split "
    "--split-fractions --split-seed --seed --label-dtype --pe --shard-molecules --block-molecules "
    "--workers --engine --ray-address --max-reject-fraction --molecule-s --molecule-mib",
    "inspect": "DIR --html --json",
    "cat": "DIR --split --limit --ids",
    "verify": "DIR --json",
    "stream": "DIR --split --epochs --lanes --world-size --rank --seed --threads --state --max-steps --ledger --budget "
    "--list-labels --oversize --tasks --pe --window-molecules --json",
    "pretrain": "[DIR] --out --recipe --set --fields --tracker --steps --resume --threads --device --processes",
    "eval": "DIR --checkpoint --split --out --every-task --threads",
    "embed": "INPUT --checkpoint --out --split --smiles-column --quoting --dtype --threads",
    "bench": "[NAME]",
}


def command(name: str):
    app.register()
    return typer.main.get_command(app.app).commands[name]


def test_the_help_lists_every_subcommand(succeed):
    out = succeed("--help").out
    for name in OPTIONS:
        assert f"\n  {name} " in out
    assert set(OPTIONS) == set(typer.main.get_command(app.app).commands)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_the_help_of_a_subcommand_lists_every_option_with_what_it_does(succeed, name, flag):
    out = succeed(name, flag).out
    assert out.startswith(f"Usage: molstream {name} ")
    for word in OPTIONS[name].split():
        assert word in out
    for parameter in command(name).params:
        assert parameter.param_type_name == "argument" or set(parameter.opts) <= {*out.split()}
        if parameter.name != "help":
            assert parameter.help, f"{parameter.name} says nothing"
    assert {o for p in command(name).params for o in p.opts if o.startswith("--")} - {"--help"} == {
        word for word in OPTIONS[name].split() if word.startswith("--")
    }


def test_the_help_names_every_recipe_and_every_data_set(succeed):
    from molstream.shards.inputs.datasets import DATASETS
    from molstream.trainers.recipes import RECIPES

    for name, choices in (("pretrain", RECIPES), ("build", DATASETS)):
        text = " ".join(succeed(name, "--help").out.split())
        for choice in choices:
            # "pm6-gine, ..., each also with -g62 or -n7 for one task set"
            for part in re.fullmatch(r"(.*?)(-g62|-n7)?", choice).groups(""):
                assert part in text


def test_without_arguments_the_help_is_printed(molstream):
    done = molstream()
    assert done.code == 2
    assert "Commands:" in done.out
    assert done.err == ""


def test_the_version_is_printed_without_a_command(succeed):
    assert succeed("--version").out.startswith("molstream")


CALL, DATA = 2, 1
EMBED = "embed --checkpoint RUN --out x"


@pytest.mark.parametrize(
    ("code", "line", "expected"),
    [
        (CALL, "nonsense", "No such command 'nonsense'"),
        (CALL, "cat", "Missing argument 'DIR'"),
        (CALL, "cat SET --bogus", "No such option: --bogus"),
        (CALL, "cat SET --limit many", "--limit"),
        (CALL, "cat SET --limit -1", "--limit"),
        (CALL, "stream SET --epochs 0", "--epochs"),
        (CALL, "pretrain SET", "pretrain: no folder for the run; add --out RUN"),
        (CALL, "eval SET", "Missing option '--checkpoint'"),
        (CALL, "embed SET --out x", "Missing option '--checkpoint'"),
        (CALL, "embed SET --checkpoint RUN --out x --dtype f8", "f16"),
        (CALL, "build TABLE", "--out is missing: the folder to write"),
        (CALL, "build --out x", "expected input files, or tables to join with --table, and not both"),
        (CALL, "build TABLE --table pm6=TABLE --out x", "expected input files, or tables to join with --table, and not both"),
        *[
            (CALL, f"{c} /nowhere", "/nowhere: no such folder, expected a shard set made by `molstream build`")
            for c in ("cat", "inspect", "verify", "stream", "pretrain --out x", "eval --checkpoint RUN")
        ],
        *[
            (DATA, f"{c} EMPTY", "no shard set (manifest.json is missing); build it with `molstream build`")
            for c in ("cat", "inspect", "verify", "stream", "pretrain --out x", "eval --checkpoint RUN", EMBED)
        ],
        *[
            (CALL, f"{c} SET --split dev", "no split 'dev', it holds train, val, test")
            for c in ("cat", "stream", "eval --checkpoint RUN", EMBED)
        ],
        (CALL, "embed /nowhere --checkpoint RUN --out x", "/nowhere: no such file or folder"),
        *[
            (DATA, f"{c} --checkpoint /nowhere", "/nowhere: no complete checkpoint here: expected a run of `molstream pretrain`")
            for c in ("eval SET", "embed SET --out x")
        ],
    ],
)
def test_an_error_is_one_line_and_its_exit_code_says_whose_fault_it_is(
    molstream, shard_set, run, table, tmp_path, monkeypatch, code, line, expected
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    places = {"SET": shard_set, "RUN": run, "TABLE": table, "EMPTY": "empty"}
    done = molstream(*(places.get(word, word) for word in line.split()))
    assert done.code == code
    assert expected in done.error
    assert done.out == ""
    assert not (tmp_path / "x").exists(), "a refused call left something behind"


@pytest.mark.parametrize("argv", [("--debug", "cat", "/nowhere"), ("cat", "/nowhere", "--debug"), ("cat", "--debug", "/nowhere")])
def test_debug_lets_the_error_through_wherever_it_stands(argv):
    with pytest.raises(InputError, match="no such folder"):
        main.main(list(argv))


def test_our_own_mistakes_keep_their_traceback(monkeypatch, shard_set):
    monkeypatch.setattr("molstream.shards.format.reader.ShardSet.__init__", lambda self, path: {}["no such key"])
    with pytest.raises(KeyError, match="no such key"):
        main.main(["cat", str(shard_set)])


def test_an_interrupt_ends_in_one_line_and_130(molstream, monkeypatch, shard_set):
    def interrupt(self, path):
        raise KeyboardInterrupt

    monkeypatch.setattr("molstream.shards.format.reader.ShardSet.__init__", interrupt)
    done = molstream("cat", shard_set)
    assert (done.code, done.err) == (130, "molstream: stopped\n")


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which signals are caught")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize(
    "delay_s", [0.0, 0.05, pytest.param(0.5, marks=pytest.mark.slow), pytest.param(1.5, marks=pytest.mark.slow)]
)
def test_a_signal_in_the_first_moments_ends_in_one_line(start, shard_set, tmp_path, number, delay_s):
    process = start("pretrain", shard_set, "--out", tmp_path / "run", "--recipe", "smoke")
    caught = 1 << (signal.SIGUSR1 - 1)
    while not int(re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())[1], 16) & caught:
        assert process.poll() is None, process.communicate()
    time.sleep(delay_s)
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out, err) == (130, "", "molstream: stopped\n")
    assert not (tmp_path / "run").exists()


def test_an_interrupt_that_a_library_hides_is_one_all_the_same(molstream, monkeypatch, shard_set):
    def interrupt(self, path):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        except KeyboardInterrupt as error:
            raise ImportError("numpy is broken") from error

    monkeypatch.setattr("molstream.shards.format.reader.ShardSet.__init__", interrupt)
    done = molstream("cat", shard_set)
    assert (done.code, done.err) == (130, "molstream: stopped\n")


@pytest.mark.parametrize("argv", ["--help", "cat SET"])
def test_a_reader_that_goes_away_is_no_error(start, shard_set, argv):
    # the pipe has no reader from the start, so the first write fails
    process = start(*(str(shard_set) if word == "SET" else word for word in argv.split()))
    process.stdout.close()
    err = process.stderr.read()
    assert (process.wait(), err) == (0, "")


def test_a_file_that_cannot_be_written_is_named(molstream, shard_set, tmp_path):
    done = molstream("stream", shard_set, "--ledger", tmp_path / "no" / "ledger.parquet")
    assert done.code == 2
    assert "no/ledger.parquet" in done.error


def test_output_to_a_pipe_has_no_colours_and_no_bars(start, shard_set):
    process = start("verify", shard_set)
    out, err = process.communicate()
    assert "\x1b" not in out + err
    assert err == ""


def test_the_installed_command_is_this_main():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert 'molstream = "molstream.tools.main:main"' in text
