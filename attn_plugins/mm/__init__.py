"""The bridge to OpenMMLab: the only room that imports mmengine, mmcv, mmdet, ...

Rooms: models, engine, datasets, apis. ``attn_plugins.registration`` says which modules
are imported after which module of a framework. Each registers what it names in
``REGISTERED``. If one is imported first it imports its framework, and that the others,
while it is not complete: so they take no names from each other that stand below such
an import.
"""
