"""Benchmarks of pylog: each figure beside its ceiling and beside what users would pick instead.

`python -m benchmarks` prints the table; `pytest benchmarks` runs the same operations one by one under
pytest-benchmark. docs/benchmarks.md says how it is measured. Nothing here asserts on time.
"""
