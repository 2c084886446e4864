"""The faults that the tests bring about: kills between two stores, power cuts, failing calls, full disks."""
