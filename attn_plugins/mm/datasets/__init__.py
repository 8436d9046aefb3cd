"""What configs say of their data sets, and the checks before a run.

Imports mmengine and the frameworks' registries, and of ours ``mm.engine``.
"""
