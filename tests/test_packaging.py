"""What a user gets who installs the wheel instead of a checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def pip(*arguments, **options):
    command = [sys.executable, '-m', 'pip', '--disable-pip-version-check', *arguments]
    result = subprocess.run(command, capture_output=True, text=True, **options)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp('wheel')
    sources = folder / 'sources'
    # A build writes into its sources. The links in `.mim` stay links, as in git.
    unwanted = shutil.ignore_patterns(
        '.*cache', '.git', '.venv*', 'build', 'data', 'work_dirs'
    )
    shutil.copytree(ROOT, sources, symlinks=True, ignore=unwanted)
    pip('wheel', '--no-deps', '--no-build-isolation', '-w', folder, sources)
    (path,) = folder.glob('*.whl')
    return path


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


def test_links_reach_the_folders_of_the_checkout():
    for folder in ('configs', 'tools'):
        link = ROOT / 'attn_plugins/.mim' / folder
        assert link.is_symlink()
        assert link.resolve() == ROOT / folder


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
        'Requires-Dist: torch>=2.6'
    ]
    assert 'Requires-Python: >=3.10' in lines
    for extra in ('det', 'seg', 'cls', 'all', 'test'):
        assert f'Provides-Extra: {extra}' in lines
        assert [need for need in needs if f'extra == "{extra}"' in need]


def test_installed_wheel_imports(wheel, tmp_path):
    pip('install', '--no-deps', '--no-index', '--target', tmp_path, wheel)
    code = 'import attn_plugins as a; print(a.__file__, a.__version__)'
    result = subprocess.run(
        [sys.executable, '-c', code],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    path, version = result.stdout.split()
    assert Path(path) == tmp_path / 'attn_plugins/__init__.py'
    assert f'{version}-' in wheel.name
