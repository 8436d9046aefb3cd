"""The bridge to OpenMMLab: the only package here that imports mmengine and its hosts.

``attn_plugins.registration`` decides which of these modules are imported. Each names
what it registers in ``REGISTERED``.
"""
