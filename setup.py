import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def read_version() -> str:
    # Importing the package would need torch, which a build machine may lack.
    text = (ROOT / 'attn_plugins/version.py').read_text()
    return re.search(r"__version__ = '(.+)'", text).group(1)


# mmengine imports pkg_resources, which setuptools 82 removed. No mmcv here: a compiled
# one that is installed, and mmcv-lite, would overwrite each other.
MM = ['mmengine>=0.10.7,<1', 'setuptools<82']
EXTRAS = {
    'det': [*MM, 'mmdet>=3.3,<4'],
    'seg': [*MM, 'mmsegmentation>=1.2.2,<2', 'ftfy', 'regex', 'cityscapesscripts'],
    'cls': [*MM, 'mmpretrain>=1.2,<2', 'torchvision'],
    'export': ['onnx', 'onnxruntime', 'onnxscript'],
    'test': ['hypothesis', 'pandas', 'pytest', 'pytest-xdist', 'ruff', 'tabulate'],
}
EXTRAS['all'] = sorted({need for needs in EXTRAS.values() for need in needs})
EXTRAS['lite'] = ['mmcv-lite>=2.1,<2.2']  # mmdet and mmseg refuse mmcv 2.2
# In place of `det`, `seg`, `cls` and `all`, never beside them: the maintained fork.
EXTRAS['onedl'] = [
    'onedl-mmengine>=0.10.12,<1',
    'onedl-mmcv>=2.3.6,<3',
    'onedl-mmdetection>=3.5.1,<4',
    'onedl-mmsegmentation>=1.4.2,<2',
    'onedl-mmpretrain>=1.3.6,<2',
    'cityscapesscripts',
    'setuptools<82',
    'torchvision',
]
EXTRAS['docs'] = ['latex2mathml', 'mkdocs-material>=9.7', 'mkdocstrings-python>=2']

setup(
    name='attn_plugins',
    version=read_version(),
    description=(
        'External attention, LESA and GSA for mmsegmentation, mmdetection, mmpretrain'
    ),
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    classifiers=[
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3 :: Only',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',  # the one that the tests are run on
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Typing :: Typed',
    ],
    python_requires='>=3.10',
    packages=find_packages(include=['attn_plugins*']),
    # `.mim` links to configs, tools and model-index.yml of the repository; the wheel
    # holds copies, where `mim` and the catalogue look for them.
    package_data={'attn_plugins': ['py.typed', '.mim/**/*']},
    exclude_package_data={'attn_plugins': ['.mim/**/__pycache__/*']},
    # Never the mm distributions: a maintained fork ships the same modules under other
    # names, and a hard dependency would install the originals over it. The others are
    # for `attn-plugins configs` and `doctor`.
    install_requires=['torch>=2.7', 'packaging', 'pyyaml', 'rich'],
    extras_require=EXTRAS,
    entry_points={'console_scripts': ['attn-plugins = attn_plugins.__main__:main']},
    zip_safe=False,
)
