"""The checks of a config, its data and its weights before and during a run.

Imports mmengine and the hosts, and of ours ``mm.engine``.
"""
