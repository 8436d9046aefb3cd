"""The bridge to OpenMMLab: the only room that imports mmengine, mmcv and the hosts.

Rooms: models, engine, datasets, apis. ``attn_plugins.registration`` says which modules
are imported after which module of a host. Each registers what it names in
``REGISTERED``. If one is imported first it brings its host, and the host the others,
while it is not complete: so they take no names from each other that stand below such
an import.
"""
