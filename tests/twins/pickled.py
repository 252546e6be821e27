"""Whole numbers out of a pickle's opcodes."""

import pickletools


def read_pickled_ints(data: bytes, *, at: int) -> tuple[list[int], int]:
    """The standard library's reading of the opcodes, a number held back until something appends it."""
    numbers: list[int] = []
    pending: list[int] = []
    marked, end = False, at
    try:
        for opcode, value, place in pickletools.genops(data[at:]):
            if opcode.name in ("BININT", "BININT1", "BININT2", "LONG1") and (marked or not pending):
                pending.append(int(value or 0))
                if not -(2**63) <= pending[-1] < 2**63:
                    break
            elif opcode.name == "MARK" and not marked and not pending:
                marked = True
            elif (opcode.name == "APPENDS" and marked) or (opcode.name == "APPEND" and not marked and pending):
                numbers, pending, marked, end = numbers + pending, [], False, at + int(place or 0) + 1
            elif opcode.name != "FRAME":
                break
    except ValueError:
        pass  # an opcode that is none, or breaks off
    return numbers, end
