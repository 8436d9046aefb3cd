"""External attention, LESA and GSA as plug-in components for OpenMMLab.

``import attn_plugins`` needs torch alone and imports no framework. As soon as mmengine,
mmseg, mmdet or mmpretrain is imported, before or after, it registers the components
that this one can use, so that any config gets them with
``custom_imports = dict(imports=['attn_plugins'])``. Importing twice is harmless.
"""

from .registration import follow_hosts, register_all
from .version import __version__

follow_hosts()

__all__ = ['__version__', 'register_all']
