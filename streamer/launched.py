"""What launchers say about the number of processes, for the loader that was not told: torchrun's variables, then Slurm's."""

import logging
import os
from collections.abc import Mapping

_SAYS = (("WORLD_SIZE", "RANK"), ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"))
_said: list[str] = []


def launched_world(environ: Mapping[str, str] = os.environ) -> tuple[str, int, int]:
    """(variable, number of processes, rank of this one) by the first launcher that says how many there are; ("", 1, 0): none."""
    for size, rank in _SAYS:
        if environ.get(size, "").isdecimal():
            number = environ.get(rank, "")
            return size, int(environ[size]), int(number) if number.isdecimal() else 0
    return "", 1, 0


def warn_of_forgotten_rank() -> None:
    """Log a warning if there are several processes, once: in the first of them, for its first loader."""
    variable, world_size, rank = launched_world()
    if world_size > 1 and rank == 0 and not _said:
        _said.append(variable)
        logging.getLogger(__name__).warning(
            "a loader without rank and world size gives every molecule in each of the %d processes that %s says there are; give "
            "rank and world_size (`molstream stream`: --rank, --world-size), 0 and 1 where that is meant",
            world_size,
            variable,
        )
