"""The bridge to OpenMMLab: the only package here that imports mmengine and its hosts.

``attn_plugins.registration`` says which of these modules is imported after which module
of a host. Each of them registers what it names in ``REGISTERED``. If one is imported
first it brings its host, and the host the others, while it is not complete: so they
take no names from each other that stand below such an import.
"""
