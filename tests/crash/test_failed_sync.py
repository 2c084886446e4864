"""A sync fails (EIO): the partition is poisoned for everybody, nothing above the synced offset is called
safe, and recover() cuts there and goes on. One process and two, each durability, each sync.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from faults.failpoints import Failpoints
from faults.puppet import Puppet, Refused
from faults.zygote import ChildFailedError, Zygote
from stage import Stage

DURABILITIES = ("os", "interval", "sync")


def append_until_refused(process: Puppet, durability: str) -> str:
    """Append, and sync where the durability does not; the error's name."""
    for _ in range(60):
        try:
            process.do("append", size=900, durability=durability)
            if durability != "sync":
                process.do("sync")
        except Refused as refused:
            return refused.kind
    raise AssertionError("sixty appends, and no sync failed")


def verify_after_cut(stage: Stage) -> dict[str, Any]:
    """What was acknowledged as synced is there, and what was not may be gone: as after a power cut."""
    found = stage.look()
    stage.checker.check_after_power_cut(found)
    stage.look_again(found)
    return found


def refusal_of_append(process: Puppet) -> str:
    with pytest.raises(Refused) as caught:
        process.do("append", durability="os")
    return caught.value.kind


@pytest.mark.parametrize("at", [1, 3, 18, 19])  # the last two are about the seal of a segment
@pytest.mark.parametrize("durability", DURABILITIES)
def test_a_failed_sync_poisons_the_partition_for_every_process_until_it_is_cut(
    zygote: Zygote, points: Failpoints, tmp_path: Path, durability: str, at: int
) -> None:
    points.reset()
    stage = Stage(zygote, tmp_path, durability)
    one, two = stage.process("one"), stage.process("two")
    two.do("append", durability="sync")
    one.do("fail_syncs", table=str(points.path), at=at)

    assert append_until_refused(one, durability) == "DurabilityError"
    synced, end = two.do("ends")
    assert synced < end
    assert {refusal_of_append(one), refusal_of_append(two)} == {"DurabilityError"}
    with pytest.raises(Refused, match="DurabilityError"):
        two.do("sync")
    assert two.do("ends") == [synced, end], "I8: a sync after the failed one called more safe"

    stage.checker.note_power_cut()  # recover() takes what a power cut would
    two.do("recover")
    assert one.do("ends") == [synced, synced]
    for process in (one, two):
        process.do("append", durability="sync")
    for process in (one, two):
        process.close()
    found = verify_after_cut(stage)
    assert [offset for _, offset, *_ in found["records"]] == list(range(synced + 2))
    assert {epoch for _, offset, epoch, *_ in found["records"] if offset >= synced} == {1}


@pytest.mark.parametrize("how", ["close", "kill"])
def test_a_poison_outlives_the_processes_that_saw_it(
    zygote: Zygote, points: Failpoints, tmp_path: Path, how: str
) -> None:
    points.reset()
    stage = Stage(zygote, tmp_path)
    first = stage.process("first")
    first.do("append", durability="sync")
    first.do("fail_syncs", table=str(points.path))
    assert append_until_refused(first, "sync") == "DurabilityError"
    if how == "kill":
        first.kill()
    else:
        with pytest.raises(
            ChildFailedError, match="DurabilityError"
        ):  # close() syncs, and may not say that it did
            first.close()

    later = stage.process("later")
    assert refusal_of_append(later) == "DurabilityError"
    stage.checker.note_power_cut()
    later.do("recover")
    assert later.do("ends") == [1, 1]
    later.do("append", durability="sync")
    later.close()
    verify_after_cut(stage)
