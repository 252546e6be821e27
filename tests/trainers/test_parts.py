"""A folder of parts: what is damaged is written again and never signed; one job and one process at a time."""

import hashlib
import random
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from molstream.shards.store.lines import read_json_lines
from molstream.shards.store.writing import write_bytes
from molstream.trainers.errors import RunError
from molstream.trainers.jobs.parts import Export, JobNote, PartFolder

NOTES = ["_embeddings.json", "_job.json", "_parts.jsonl"]
JOB = {"weights_sha256": "a", "splits": ("val",)}


def columns(number: int) -> dict:
    return {"id": pa.array(range(100 * number, 100 * number + 50)), "x": pa.array([0.5 * number] * 50)}


def export(path, *, job=JOB, num_parts=3) -> list[int]:
    """Run a job to its end; returns the numbers of the parts that were written."""
    written = []
    with PartFolder(path, job=job) as folder:
        for number in range(num_parts):
            if not folder.holds(number, 50):
                folder.write(number, columns(number), overflows=0)
                written.append(number)
        folder.commit(num_parts, 50 * num_parts, 1)
    return written


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("parts") / "whole"
    assert export(path) == [0, 1, 2]
    return path


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "out")


def content(path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir()}


def test_the_manifest_has_the_hash_of_every_part_and_the_folder_reads_as_one_table(whole):
    found = Export.read(whole / "_embeddings.json")
    assert found.parts == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(whole.glob("part-*"))}
    assert (found.rows, found.job) == (150, {"weights_sha256": "a", "splits": ["val"]})
    assert pq.read_table(whole)["id"].to_pylist() == [k for n in range(3) for k in range(100 * n, 100 * n + 50)]
    assert sorted(content(whole)) == [
        "_embeddings.json",
        "_job.json",
        "_parts.jsonl",
        *(f"part-{k:05d}.parquet" for k in range(3)),
    ]


def test_a_second_call_writes_nothing_again(copy, whole):
    assert export(copy) == []
    assert content(copy) == content(whole)


@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_bit_anywhere_is_healed(copy, whole, seed, committed):
    draw = random.Random(seed)
    if not committed:
        (copy / "_embeddings.json").unlink()
    path = draw.choice(sorted(copy.iterdir()))
    damaged = bytearray(path.read_bytes())
    damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
    path.write_bytes(damaged)
    written = export(copy)
    here, there = content(copy), content(whole)
    assert written == ([int(path.name[5:10])] if path.name.startswith("part") else written)
    # a flipped line break spoils two notes
    assert len(written) <= 2
    # each part noted once more for each time it was written
    assert {n: d for n, d in here.items() if n != "_parts.jsonl"} == {n: d for n, d in there.items() if n != "_parts.jsonl"}
    assert read_json_lines(copy / "_parts.jsonl")[1] == 0
    assert export(copy) == []


@pytest.mark.parametrize("damage", [b"", b"{", b"[" * 10**6, bytes(300), b"\xff\xfe", b"{}"])
@pytest.mark.parametrize("name", NOTES)
def test_whatever_becomes_of_a_note_the_export_ends_as_it_should(copy, whole, name, damage):
    (copy / name).write_bytes(damage)
    export(copy)
    assert {n: d for n, d in content(copy).items() if n != "_parts.jsonl"} == {
        n: d for n, d in content(whole).items() if n != "_parts.jsonl"
    }


def test_a_part_of_another_export_or_of_fewer_rows_is_written_again(copy, whole):
    shutil.copy(copy / "part-00001.parquet", copy / "part-00002.parquet")
    assert export(copy) == [2]
    with PartFolder(copy, job=JOB) as folder:
        assert [folder.holds(1, rows) for rows in (50, 49, 51)] == [True, False, False]
        assert not folder.holds(3, 50)
    assert content(copy)["part-00002.parquet"] == content(whole)["part-00002.parquet"]


def test_what_a_killed_writer_left_is_removed_and_what_it_wrote_without_a_note_is_written_again(tmp_path, whole):
    out = tmp_path / "out"
    with PartFolder(out, job=JOB) as folder:
        folder.write(0, columns(0), overflows=0)
    (out / ".part-00001.parquet.0123456789ab.part").write_bytes(b"half")
    shutil.copy(whole / "part-00001.parquet", out)
    assert export(out) == [1, 2]
    assert content(out) == content(whole)


def test_a_folder_of_another_job_or_of_something_else_is_refused_and_left_alone(copy, tmp_path):
    before = content(copy)
    with pytest.raises(RunError, match="holds embeddings of other molecules or weights; choose another folder"):
        export(copy, job=JOB | {"weights_sha256": "b"})
    assert content(copy) == before
    for name in ("letter.txt", "part-00000.parquet"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        write_bytes(folder / name, b"dear")
        with pytest.raises(RunError, match="holds something else; choose another folder"):
            export(folder)
        assert content(folder) == {name: b"dear"}
    with pytest.raises(RunError, match="a file, expected a folder to write to"):
        export(tmp_path / "letter" / "letter.txt")


def test_two_jobs_at_a_time_in_one_folder_are_refused_the_same_job_too(tmp_path):
    with PartFolder(tmp_path / "out", job=JOB):
        with pytest.raises(RunError, match=r"another process is writing to it \(process \d+ on .+\); wait for it"):
            export(tmp_path / "out")
        with pytest.raises(RunError, match="holds embeddings of other molecules or weights"):
            export(tmp_path / "out", job={})
    assert export(tmp_path / "out") == [0, 1, 2]


def test_an_export_of_another_version_is_refused_in_one_line(copy):
    (copy / "_embeddings.json").unlink()
    # as it was before there were versions, and notes that say whose they are
    (copy / "_parts.jsonl").unlink()
    (copy / "_job.json").write_text('{"weights_sha256": "a", "splits": ["val"]}\n')
    with pytest.raises(RunError, match=r"_job\.json: no export job of version 1, or a damaged one.*; choose another folder"):
        export(copy)
    JobNote(job={}).write(copy / "_job.json")
    with pytest.raises(RunError, match="other molecules or weights"):
        export(copy)
