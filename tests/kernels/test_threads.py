"""Parts of a loop on several threads: all are done, errors come out, and a forked process has threads of its own."""

import sys
import threading

import pytest

from molstream.kernels.nn.threads import run_parts


def test_every_part_is_done_once_and_the_first_on_this_thread():
    done = {}

    def work(number: int) -> None:
        assert number not in done
        done[number] = threading.current_thread()

    for _ in range(20):
        done.clear()
        run_parts(work, [(k,) for k in range(5)])
        assert sorted(done) == [0, 1, 2, 3, 4]
        assert done[0] is threading.current_thread()
        assert done[4] is not done[0]


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_an_error_comes_out_after_all_parts_are_done(bad):
    others = threading.Barrier(2)
    done = []

    def work(number: int) -> None:
        if number == bad:
            raise ValueError(f"part {number}")
        others.wait(timeout=500)
        done.append(number)

    with pytest.raises(ValueError, match=f"part {bad}"):
        run_parts(work, [(0,), (1,), (2,)])
    assert sorted(done) == sorted({0, 1, 2} - {bad})


def test_two_threads_may_hand_out_parts_at_once():
    sums = [0] * 8

    def work(caller: int, number: int) -> None:
        sums[2 * caller + number] += 1

    callers = [threading.Thread(target=lambda c=c: [run_parts(work, [(c, 0), (c, 1)]) for _ in range(200)]) for c in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=500)
    assert sums == [200] * 8


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_forked_process_has_threads_of_its_own(run_python, tmp_path):
    script = tmp_path / "fork.py"
    script.write_text(
        "import os, warnings\n"
        "from molstream.kernels.nn.threads import run_parts\n"
        "warnings.simplefilter('ignore')\n"
        "def count():\n"
        "    done = []\n"
        "    run_parts(done.append, [(1,), (2,)])\n"
        "    return len(done)\n"
        "assert count() == 2\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(count())\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), count())\n"
    )
    done = run_python(script)
    assert (done.stdout, done.stderr) == ("2 2\n", "")
