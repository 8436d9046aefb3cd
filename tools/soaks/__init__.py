"""The commands of tools/soak.py."""
