"""Event sourcing: streams of events in a partitioned topic, aggregates, snapshots and read models.

Written against the protocols of pylog.engine: needs the capability "keys". Nothing is imported here, so that
who uses one part pays for one part.
"""
