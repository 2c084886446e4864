"""Turns what the native core found while recovering into the RecoveryReport that a user reads.

Invariant: nothing that was dropped or found damaged is left out.
"""

from __future__ import annotations

from typing import Any

from logcore.topic_log import TopicLog
from pylog.records import Damage, RecoveryReport


def report_of(log: TopicLog, partition: int, survey: Any) -> RecoveryReport:
    """Return the report of one partition."""
    damage = tuple(
        Damage(found.path, found.position, found.length, found.first_offset, found.next_offset)
        for found in survey.damage
    )
    return RecoveryReport(
        topic=log.name,
        partition=partition,
        epoch=survey.next_epoch if survey.outcome == "cut" else survey.epoch,
        log_end_offset=survey.next_offset,
        cut=survey.outcome == "cut",
        dropped_bytes=survey.dropped_bytes,
        dropped_batches=survey.dropped_batches,
        damage=damage,
    )
