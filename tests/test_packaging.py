"""What a user gets who installs the wheel instead of a checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


def pip(*arguments, **options):
    command = [sys.executable, '-m', 'pip', '--disable-pip-version-check', *arguments]
    result = subprocess.run(command, capture_output=True, text=True, **options)
    assert result.returncode == 0, result.stdout + result.stderr


def build_wheel(folder, sources):
    pip('wheel', '--no-deps', '--no-build-isolation', '-w', folder, sources)
    (path,) = folder.glob('*.whl')
    return path


@pytest.fixture(scope='module')
def sources(tmp_path_factory):
    """A copy, as a build writes into its sources."""
    folder = tmp_path_factory.mktemp('checkout') / 'sources'
    # The links in `.mim` stay links, as in git.
    unwanted = shutil.ignore_patterns(
        *('.*cache', '.git', '.venv*', '__pycache__'),
        *('build', 'data', 'site', 'work_dirs'),
    )
    shutil.copytree(ROOT, folder, symlinks=True, ignore=unwanted)
    return folder


@pytest.fixture(scope='module')
def wheel(sources, tmp_path_factory):
    return build_wheel(tmp_path_factory.mktemp('wheel'), sources)


@pytest.fixture(scope='module')
def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def files_of(folder):
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / folder).rglob('*')
        if path.is_file() and '__pycache__' not in path.parts
    }


@pytest.mark.parametrize('folder', ['configs', 'tools'])
def test_wheel_carries_all_that_mim_looks_for(contents, folder):
    expected = {f'attn_plugins/.mim/{name}' for name in files_of(folder)}
    assert expected
    assert expected <= contents


def test_wheel_carries_the_model_index(contents):
    assert 'attn_plugins/.mim/model-index.yml' in contents
    assert 'attn_plugins/.mim/configs/metafile.yml' in contents


def test_links_reach_the_checkout():
    for name in ('configs', 'tools', 'model-index.yml'):
        link = ROOT / 'attn_plugins/.mim' / name
        assert link.is_symlink()
        assert link.resolve() == ROOT / name


@pytest.mark.slow
def test_sources_make_the_same_wheel(sources, contents, tmp_path):
    """What `setup.py sdist` packs is enough to build and to develop."""
    command = [sys.executable, 'setup.py', '-q', 'sdist', '-d', tmp_path]
    result = subprocess.run(command, cwd=sources, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    (archive,) = tmp_path.glob('*.tar.gz')
    shutil.unpack_archive(archive, tmp_path)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    for name in (
        'LICENSE',
        'Makefile',
        'mkdocs.yml',
        'tests/conftest.py',
        'docs/lesa.md',
    ):
        assert (folder / name).is_file()
    with zipfile.ZipFile(build_wheel(tmp_path / 'wheel', folder)) as rebuilt:
        assert set(rebuilt.namelist()) == contents


def test_wheel_has_nothing_but_the_package(contents):
    top_level = {name.partition('/')[0] for name in contents}
    (info,) = top_level - {'attn_plugins'}
    assert info.endswith('.dist-info')
    assert 'attn_plugins/py.typed' in contents
    assert not [name for name in contents if '__pycache__' in name]


def test_requirements(wheel, contents):
    (metadata,) = (name for name in contents if name.endswith('METADATA'))
    with zipfile.ZipFile(wheel) as archive:
        lines = archive.read(metadata).decode().splitlines()
    needs = [line for line in lines if line.startswith('Requires-Dist')]
    # Anything else could bring an mm distribution over a fork of it.
    assert [need for need in needs if 'extra ==' not in need] == [
        'Requires-Dist: torch>=2.7',
        'Requires-Dist: packaging',
        'Requires-Dist: pyyaml',
        'Requires-Dist: rich',
    ]
    assert 'Requires-Python: >=3.10' in lines
    for extra in ('det', 'seg', 'cls', 'all', 'test', 'docs', 'onedl'):
        assert f'Provides-Extra: {extra}' in lines
        own = [need.split()[1] for need in needs if f'extra == "{extra}"' in need]
        assert own
        # The fork and what it was forked from overwrite each other.
        assert len({need.startswith('onedl-') for need in own if 'mm' in need}) < 2


# Python runs this at its start: the mm stack is not found, as if not installed.
WITHOUT_MM = """
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec
MM = ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain')

def find_unless_mm(name, path=None, target=None):
    return None if name in MM else find_spec(name, path, target)

PathFinder.find_spec = find_unless_mm
"""
SMOKE = """
import attn_plugins, sys, torch
from attn_plugins.modules import ExternalAttention2d, GlobalSelfAttention, LESA2d

for layer in (
    ExternalAttention2d(16),
    LESA2d(16, num_heads=2, rel_pos_size=4),
    GlobalSelfAttention(16, num_heads=2, rel_pos_size=4),
):
    layer(torch.rand(2, 16, 5, 7)).sum().backward()
assert not {'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain'} & sys.modules.keys()
print(attn_plugins.__file__, attn_plugins.__version__)
"""


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    """Runs Python where the wheel is installed, and no mm distribution."""
    folder = tmp_path_factory.mktemp('site')
    pip('install', '--no-deps', '--no-index', '--target', folder, wheel)
    (folder / 'sitecustomize.py').write_text(WITHOUT_MM)

    def run(*arguments, status=0):
        result = subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env={**os.environ, 'PYTHONPATH': str(folder)},
            capture_output=True,
            text=True,
        )
        assert result.returncode == status, result.stdout + result.stderr
        return result.stdout

    run.folder = folder
    return run


def test_installed_wheel_computes_with_torch_alone(wheel, installed):
    path, version = installed('-c', SMOKE).split()
    assert Path(path) == installed.folder / 'attn_plugins/__init__.py'
    assert f'{version}-' in wheel.name


@pytest.mark.slow
def test_installed_wheel_has_the_catalogue(installed, tmp_path):
    listed = installed('-m', 'attn_plugins', 'configs', 'list', '--host', 'mmseg')
    assert 'eanet_r101_ade20k ' in listed
    command = ('-m', 'attn_plugins', 'configs', 'copy', 'eanet_r50_ade20k', tmp_path)
    installed(*command)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {'eanet_r50_ade20k.py', 'eanet_r101_ade20k.py'}


@pytest.mark.slow
@pytest.mark.skipif('SOAK' not in os.environ, reason='long: SOAK=1 runs it')
@pytest.mark.parametrize('kind', ['whl', 'tar.gz'])
def test_an_empty_environment(kind, wheel, sources, tmp_path):
    """torch comes from the index, and nothing of this environment is seen."""
    if kind == 'tar.gz':
        command = [sys.executable, 'setup.py', '-q', 'sdist', '-d', tmp_path]
        subprocess.run(command, cwd=sources, check=True, capture_output=True)
        (wheel,) = tmp_path.glob('*.tar.gz')
    subprocess.run([sys.executable, '-m', 'venv', tmp_path / 'venv'], check=True)
    python = tmp_path / 'venv/bin/python'
    pinned = [f'torch=={torch.__version__}', 'numpy']

    def run(*arguments, status=0, program=python):
        result = subprocess.run(
            [program, *arguments], cwd=tmp_path, capture_output=True, text=True
        )
        assert result.returncode == status, result.stdout + result.stderr
        return result.stdout

    run('-m', 'pip', 'install', '-q', wheel, *pinned)
    path, _ = run('-c', SMOKE).split()
    assert Path(path).is_relative_to(tmp_path / 'venv')
    assert 'eanet_r101_ade20k ' in run('-m', 'attn_plugins', 'configs', 'list')
    assert 'cannot run yet' in run('-m', 'attn_plugins', 'doctor', status=1)
    run('-m', 'pip', 'install', '-q', 'openmim')
    mim = tmp_path / 'venv/bin/mim'
    assert 'attn-plugins' in run('list', program=mim)
    found = run('search', 'attn_plugins', '--model', 'lesa', program=mim)
    assert 'configs/mask-rcnn_lesa-r50_coco.py' in found


@pytest.mark.slow
def test_installed_doctor_says_what_is_missing(installed):
    told = installed('-m', 'attn_plugins', 'doctor', status=1)
    assert 'Training EANet with mmseg cannot run yet.' in told
    assert 'mmengine==' in told
