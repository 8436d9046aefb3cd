"""What `tools/benchmark.py` measures: a module a command, and what they share."""
