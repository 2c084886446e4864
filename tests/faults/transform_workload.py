"""What the processes of the transaction tests do: consume, transform and produce in one transaction.

Which outputs an input has follows from its number alone, so that a dict tells what must be there. Jobs of a
Zygote.
"""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pylog
from faults.journal import Journal
from pylog.engine import Consumer, Engine

GROUP = "g"
INPUTS = 2  # partitions of topic "in"
OUTPUTS = 3  # partitions of topic "out"


def outputs_of(number: int) -> list[int]:
    """Name the partitions of "out" that get something of an input: one to all."""
    rng = random.Random(number)
    return sorted(rng.sample(range(OUTPUTS), rng.randint(1, OUTPUTS)))


def create(directory: str, durability: str, records: int) -> None:
    """Make the topics, and all inputs, on disk."""
    options: Any = {"durability": durability}
    with pylog.open(directory) as engine:
        engine.create_topic("in", partitions=INPUTS, **options)
        engine.create_topic("out", partitions=OUTPUTS, segment_bytes=16 << 10, **options)
        for number in range(records):
            engine.append("in", b"%d" % number, partition=number % INPUTS)
        engine.sync("in")


def transform(
    directory: str,
    name: str,
    journal: str | None = None,
    records: int | None = None,
    size: int = 60,
    batch: int = 3,
    **options: Any,
) -> None:
    """Work as a member of the group until killed, or until all of so many `records` are done."""
    said = None if journal is None else Journal(Path(journal), name)
    with pylog.open(directory) as engine:
        with engine.consumer("in", group=GROUP, auto_offset_reset="earliest", **options) as consumer:
            while records is None or not is_done(consumer, records):
                try:
                    found = consumer.poll(batch, timeout=0.05)
                    if found:
                        numbers = transform_together(engine, consumer, found, size)
                        if said is not None:
                            said.say("done", numbers=numbers)
                except pylog.IllegalGenerationError:
                    rewind(consumer)
                except pylog.LockTimeoutError:  # whoever has it is stopped: nothing was done
                    rewind(consumer)


def transform_together(
    engine: Engine, consumer: Consumer, records: list[pylog.Record], size: int
) -> list[int]:
    numbers = [int(record.value or b"") for record in records]
    with engine.transaction() as transaction:
        for number in numbers:
            for partition in outputs_of(number):
                transaction.append("out", (b"%d " % number).ljust(size), partition=partition)
        transaction.commit_offsets(consumer)
    return numbers


def is_done(consumer: Consumer, records: int) -> bool:
    return sum(consumer.committed(("in", p)) or 0 for p in range(INPUTS)) == records


def rewind(consumer: Consumer) -> None:
    """Go back to what is committed: what was read since was not done."""
    for place in consumer.assignment():
        consumer.seek(place, consumer.committed(place) or 0)


def append_plainly(directory: str, steps: int, seed: int) -> None:
    """Append records of no transaction between those of the others."""
    rng = random.Random(seed)
    with pylog.open(directory) as engine:
        for _ in range(steps):
            engine.append("out", b"-1 ".ljust(rng.choice([20, 600])), partition=rng.randrange(OUTPUTS))


def found(directory: str) -> dict[str, Any]:
    """Return what the group has committed, and the numbers in each output partition in their order."""
    with pylog.open(directory) as engine, engine.consumer(group=GROUP) as consumer:
        committed = [consumer.committed(("in", p)) or 0 for p in range(INPUTS)]
        outputs = [[int(r.value or b"") for r in engine.read("out", p)] for p in range(OUTPUTS)]
        return {
            "committed": committed,
            "ends": [engine.log_end_offset("in", p) for p in range(INPUTS)],
            "outputs": [[number for number in numbers if number >= 0] for numbers in outputs],
        }


def check(state: dict[str, Any], acknowledged: frozenset[int] = frozenset()) -> int:
    """Each committed input has its outputs once, in order, and no other has any; how many are done."""
    done = {
        number
        for number in range(INPUTS * (max(state["ends"]) + 1))
        if number // INPUTS < state["committed"][number % INPUTS]
    }
    assert acknowledged <= done, f"I1: committed, and gone: {sorted(acknowledged - done)[:5]}"
    for partition, numbers in enumerate(state["outputs"]):
        wanted = {number for number in done if partition in outputs_of(number)}
        twice = sorted({number for number in numbers if numbers.count(number) > 1})
        assert not twice, f"I6: in partition {partition} more than once: {twice[:5]}"
        missing, invented = wanted - set(numbers), set(numbers) - wanted
        assert not missing, f"half: committed, and not in partition {partition}: {sorted(missing)[:5]}"
        assert not invented, f"half: in partition {partition}, and not committed: {sorted(invented)[:5]}"
        by_input: dict[int, list[int]] = defaultdict(list)
        for number in numbers:
            by_input[number % INPUTS].append(number)
        for given in by_input.values():
            assert given == sorted(given), f"I5: out of order in partition {partition}"
    return len(done)
