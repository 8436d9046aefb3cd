"""Backbones for mmpretrain."""

REGISTERED = ()
