"""``python -m attn_plugins COMMAND``: one module a command, with a ``main()``.

Imports every room; nothing imports this one.
"""
