"""The layouts of the papers' released checkpoints, and their conversion to ours.

Imports torch alone.
"""
