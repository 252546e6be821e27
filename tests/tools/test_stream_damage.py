"""Shard sets that are not what they were: one clear line before the first step."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from molstream.shards.build.build import BuildOptions, build
from molstream.shards.errors import FormatError
from molstream.shards.format.manifest import Manifest
from molstream.shards.format.reader import ShardSet
from molstream.shards.sample import sample_path
from molstream.shards.splits.rules import SplitFractions
from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.loader import Loader

ARGUMENTS = ("--lanes", 4, "--budget", "24,256,640", "--window-molecules", 16)


@pytest.fixture(scope="module")
def whole_set(small_blocks) -> Path:
    """Several shards."""
    return small_blocks(700, 200, shard_molecules=48)


@pytest.fixture
def my_set(whole_set, tmp_path) -> Path:
    return Path(shutil.copytree(whole_set, tmp_path / "set"))


@pytest.fixture
def refused(molstream, my_set, tmp_path):
    """refused() -> the one line; nothing was streamed and nothing is left of it."""

    def run(*argv: object) -> str:
        ledger, state = tmp_path / "ledger.parquet", tmp_path / "state.json"
        done = molstream("stream", my_set, *ARGUMENTS, "--ledger", ledger, "--state", state, *argv)
        assert (done.code, done.out) == (1, "")
        assert done.err.count("\n") == 1, "nothing but the error"
        assert not list(tmp_path.glob("ledger*")) + list(tmp_path.glob("state*"))
        return done.error

    return run


def names(folder: Path) -> list[str]:
    found = sorted(p.name for p in folder.glob("train-*.tar"))
    assert len(found) > 3
    return found


def test_the_set_is_fine_before(succeed, my_set):
    assert (
        succeed("stream", my_set, *ARGUMENTS, "--json").json["molecules"]
        == ShardSet(my_set).manifest.splits["train"]["molecules"]
    )


@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("size", [0, -1024])
def test_a_shard_cut_short_is_named(refused, my_set, place, size):
    shard = my_set / names(my_set)[place]
    data = shard.read_bytes()
    shard.write_bytes(data[:size])
    assert refused() == (f"{shard}: {len(data[:size]):,} bytes, by the index {len(data):,}; restore it or build the set again")


@pytest.mark.parametrize("place", [0, -1])
def test_a_missing_shard_is_named(refused, my_set, place):
    shard = my_set / names(my_set)[place]
    shard.unlink()
    assert refused() == f"{shard}: missing, though the index lists it; restore it"


def test_swapped_shards_of_one_size_and_layout_are_named(refused, whole_set, my_set):
    """Another shard's bytes, as long as the first one's: what its tar headers say is all there is to tell them apart."""
    first, second = (whole_set / name for name in names(whole_set)[:2])
    copied = bytearray(first.read_bytes())
    assert b"train-00000-0000.sizes" in copied[:512]
    (my_set / first.name).write_bytes(copied.replace(b"train-00000", b"train-00001"))
    assert refused() == (
        f"{my_set / first.name}: does not begin with train-00000-0000.sizes.zst; restore it or build the set again"
    )
    assert second.exists()


def test_damage_in_another_split_does_not_matter(succeed, my_set):
    (my_set / "val-00000.tar").unlink()
    assert succeed("stream", my_set, *ARGUMENTS, "--json").json["steps"] > 0


def test_every_rank_checks_every_shard(molstream, my_set):
    """So that all end, not only the one that would come to it."""
    gone = my_set / names(my_set)[2]
    gone.unlink()
    for rank in range(4):
        done = molstream("stream", my_set, *ARGUMENTS, "--world-size", 4, "--rank", rank)
        assert (done.code, done.out) == (1, "")
        assert done.error == f"{gone}: missing, though the index lists it; restore it"


@pytest.mark.parametrize("how", ["missing", "cut short", "of another set"])
def test_an_index_that_is_not_the_manifests_is_refused(refused, my_set, whole_set, tmp_path, how):
    index = my_set / "index.parquet"
    if how == "missing":
        index.unlink()
        assert "index.parquet is missing; restore it or build the set again" in refused()
        return
    if how == "of another set":
        table = tmp_path / "other.parquet"
        pq.write_table(pq.read_table(sample_path()).slice(0, 50), table)
        build([str(table)], tmp_path / "other", BuildOptions(split_fractions=SplitFractions.parse("90,5,5")))
        shutil.copy(tmp_path / "other" / "index.parquet", index)
    else:
        index.write_bytes(index.read_bytes()[:-100])
    assert f"{index}: not the index this manifest was written with; restore both or build again" in refused()


def test_index_and_manifest_of_another_set_are_told_by_the_shards(refused, my_set, tmp_path):
    """Both agree, so it takes a look at the shards."""
    table = tmp_path / "other.parquet"
    pq.write_table(pq.read_table(sample_path()).slice(0, 200), table)
    options = BuildOptions(split_fractions=SplitFractions.parse("90,5,5"), block_molecules=16, shard_molecules=48)
    build([str(table)], tmp_path / "other", options)
    for name in ("manifest.json", "index.parquet"):
        shutil.copy(tmp_path / "other" / name, my_set / name)
    assert Manifest.read(my_set / "manifest.json")
    assert str(my_set / "train-0") in refused()


def test_a_shard_that_goes_while_it_is_streamed_is_named(my_set, monkeypatch):
    """What was there at the start and is not when it is read; the same for one that is exchanged."""
    monkeypatch.setattr(ShardSet, "check_shards", lambda self, split: None)
    for damage, match in (
        (lambda p: p.unlink(), r"train-\d+\.tar: missing, though the index lists it"),
        (lambda p: p.write_bytes(b"x" * p.stat().st_size), r"train-\d+\.tar, block \d+, member sizes: damaged \(CRC-32"),
        (lambda p: p.write_bytes(p.read_bytes()[:900]), r"train-\d+\.tar, block \d+: .*: cut short or damaged"),
    ):
        loader = Loader(ShardSet(my_set), StreamConfig(budget=Budget.parse("24,256,640"), num_lanes=2, window_molecules=16))
        kept = {p: p.read_bytes() for p in my_set.glob("train-*.tar")}
        for path in kept:
            damage(path)
        with pytest.raises(FormatError, match=match):
            list(loader)
        for path, data in kept.items():
            path.write_bytes(data)


def test_a_disk_that_fails_is_named(my_set, monkeypatch):
    def fail(*args):
        raise OSError(5, "Input/output error")

    loader = Loader(ShardSet(my_set), StreamConfig(budget=Budget.parse("24,256,640"), num_lanes=2))
    monkeypatch.setattr(ShardSet, "check_shards", lambda self, split: None)
    monkeypatch.setattr("molstream.shards.format.reader.os.pread", fail)
    with pytest.raises(FormatError, match=r"train-\d+\.tar, block \d+: cannot be read: Input/output error"):
        list(loader)


@pytest.mark.parametrize("num_lanes", [1, 4])
def test_from_python_it_is_before_the_first_step_too(my_set, num_lanes):
    """Whichever shard comes last in the epoch."""
    shard_set = ShardSet(my_set)
    config = StreamConfig(budget=Budget.parse("24,256,640"), num_lanes=num_lanes, window_molecules=16)
    for path in my_set.glob("train-*.tar"):
        whole, steps = path.read_bytes(), []
        path.write_bytes(whole[:-2048])
        with pytest.raises(FormatError, match=rf"{path.name}: [\d,]+ bytes, by the index [\d,]+; restore it"):
            steps.extend(Loader(shard_set, config))
        assert not steps
        path.write_bytes(whole)
    assert list(Loader(shard_set, config))
