"""What `tools/benchmark.py` measures: one module per command, and what they share."""
