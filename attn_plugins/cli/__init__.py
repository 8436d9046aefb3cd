"""The commands of ``python -m attn_plugins``: arguments in, one call, lines out."""
