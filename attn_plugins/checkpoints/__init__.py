"""Checkpoints: safe loading, and released layouts turned into ours."""
