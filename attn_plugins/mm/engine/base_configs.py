"""Lets mmengine find ``mmseg::...`` where mmseg's distribution has another name.

Repairs mmengine 0.10; it can go when mmengine looks for the module first.
"""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from mmengine.config.utils import MODULE2PACKAGE


def find_base_configs() -> None:
    """Looks for configs by the module where the distribution is not there.

    mmengine looks for the distribution `mmsegmentation`, and if there is none for a
    module of that name. Its maintained fork brings mmseg as `onedl-mmsegmentation`, so
    that ``_base_ = 'mmseg::...'`` would fail there.
    """
    for module, package in MODULE2PACKAGE.items():
        try:
            version(package)
        except PackageNotFoundError:
            if module != package and find_spec(module):
                MODULE2PACKAGE[module] = module


find_base_configs()
