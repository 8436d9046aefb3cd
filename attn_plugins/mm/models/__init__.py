"""What registers as a model: layers, backbones, heads and necks.

Imports mmengine, mmcv and the frameworks, and of ours ``modules`` and ``functional``.
"""
