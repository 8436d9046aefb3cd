"""External attention, LESA and GSA as plug-in components for OpenMMLab.

``import attn_plugins`` needs torch alone. Where mmengine, mmseg, mmdet or mmpretrain
are installed it also registers the components they can use, so that any config gets
them with ``custom_imports = dict(imports=['attn_plugins'])``. Importing twice is
harmless.
"""

from .registration import register_all
from .version import __version__

register_all()

__all__ = ['__version__', 'register_all']
