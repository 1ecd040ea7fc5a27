"""Fields into shards, so that a frame is fetched and decoded by one task, once.

A task takes whole shards and whole fields.  Rows lie field by field; where the next field does not
fit into what is left of a shard, other fields that fill it exactly are drawn forward, or a shard
is filled without those it began with; where none do, the task goes on over the next shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

LOOKED_AHEAD = 256  # waiting fields among which a filling is sought
TRIED = 16_384  # fields that are packed in trying shard sizes
TRIED_FIELDS = 500  # with more fields than this, some fill any shard


@dataclass(frozen=True)
class Task:
    """Consecutive shards and the fields (by number) whose objects fill them exactly, in order."""

    shards: range
    fields: tuple[int, ...]


def pack(counts: Sequence[int], shard: int) -> list[Task]:
    """Tasks for fields of `counts` objects each (all positive) and shards of `shard` rows.

    Every field is in one task, and the tasks' shards follow each other; rows are those of the
    fields in the order of the tasks.  The last shard may be short.
    """
    tasks: list[Task] = []
    placed = bytearray(len(counts))
    following = first = 0  # the first field that is not placed, and the first shard of the task
    while following < len(counts):
        taken: list[int] = []
        rows = 0
        while following < len(counts):
            room = shard - rows % shard
            chosen = [following]
            if counts[following] > room:
                waiting = _waiting(placed, following)
                if filling := _filling(counts, waiting, room):
                    chosen = filling
                elif rows < shard and (instead := _filling(counts, taken + waiting, shard)):
                    for number in taken:
                        placed[number] = 0
                    following, taken, rows, chosen = min([*taken, following]), [], 0, instead
            for number in chosen:
                placed[number] = 1
            taken += chosen
            rows += sum(counts[number] for number in chosen)
            while following < len(counts) and placed[following]:
                following += 1
            if rows % shard == 0:
                break
        shards = -(-rows // shard)
        tasks.append(Task(range(first, first + shards), tuple(taken)))
        first += shards
    return tasks


def _waiting(placed: bytearray, following: int) -> list[int]:
    """The next fields that are not placed."""
    free = (number for number in range(following, len(placed)) if not placed[number])
    return list(islice(free, LOOKED_AHEAD))


def shard_size(counts: Sequence[int], largest: int) -> int:
    """The rows of a shard, at most `largest` and at least half of it, for short tasks.

    The largest size is taken whose longest task is as short as any, counted in `largest` rows.
    """
    if len(counts) > TRIED_FIELDS or sum(counts) <= largest:
        return largest
    least = max(1, largest // 2)
    step = max(1, (largest - least) * len(counts) // TRIED)
    shortest = -(-max(counts) // largest)
    best, size = 0, largest
    for tried in range(largest, least - 1, -step):
        rows = max(sum(counts[n] for n in task.fields) for task in pack(counts, tried))
        longest = -(-rows // largest)
        if best == 0 or longest < best:
            best, size = longest, tried
        if best == shortest:
            break
    return size


def _filling(counts: Sequence[int], waiting: Sequence[int], room: int) -> list[int]:
    """The waiting fields, as early as possible, that have `room` objects together; else none."""
    sums = [1]  # bit n: some of the fields so far have n objects together
    wanted = 1 << room
    whole = (wanted << 1) - 1
    for number in waiting:
        sums.append((sums[-1] | sums[-1] << counts[number]) & whole)
        if sums[-1] & wanted:
            break
    else:
        return []
    chosen: list[int] = []
    for place in range(len(sums) - 1, 0, -1):
        if not sums[place - 1] >> room & 1:
            chosen.append(waiting[place - 1])
            room -= counts[waiting[place - 1]]
    return chosen[::-1]
