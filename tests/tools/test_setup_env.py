"""`make setup` with a Python that only pretends to install: nothing is downloaded."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = (
    'tools/setup_env.sh',
    'constraints.txt',
    'constraints-test.txt',
    'constraints-onedl.txt',
    'setup.py',
    'pyproject.toml',
    'attn_plugins/version.py',
    'attn_plugins/ops/link.py',
)
CHOICES = ('OPS', 'PYTHON', 'STACK', 'TORCH')
# It writes down its arguments and what it reads, and fails at what FAIL names.
PYTHON = """#!/bin/bash
echo "$*" >>calls
case "$*" in *"${FAIL:-nothing}"*) echo 'ERROR: no answer from the index'; exit 1;; esac
case "$*" in
  *venv*--clear*) mkdir -p "${@: -1}/bin"; cp "$0" "${@: -1}/bin/python";;
  *torchvision*==*) echo torchvision==0.28.0;;
  *-r*) cat "${@: -1}" >installed;;
esac
"""


@pytest.fixture
def set_up(tmp_path):
    """Runs the script in a copy of what it reads; the path has a space."""
    folder = tmp_path / 'my checkout'
    for source in SOURCES:
        (folder / source).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / source, folder / source)
    python = folder / 'python'
    python.write_text(PYTHON)
    python.chmod(0o755)

    def run(part='all', **changes):
        (folder / 'calls').write_text('')
        inherited = {k: v for k, v in os.environ.items() if k not in CHOICES}
        return subprocess.run(
            [folder / 'tools/setup_env.sh', '.venv', part],
            env={**inherited, 'PYTHON': './python', **changes},
            capture_output=True,
            text=True,
            timeout=30,
        )

    run.folder = folder
    run.calls = lambda: (folder / 'calls').read_text()
    run.installed = lambda: (folder / 'installed').read_text().splitlines()
    return run


def test_everything_once(set_up):
    result = set_up()
    assert result.returncode == 0, result.stderr
    assert 'done: .venv is ready' in result.stdout
    assert 'attn_plugins ops link' in set_up.calls()
    assert {'mmcv-lite==2.1.0', 'mmdet==3.3.0'} <= set(set_up.installed())
    again = set_up()
    assert (again.returncode, again.stdout, set_up.calls()) == (0, '', '')


def test_the_demo_takes_what_it_needs_alone(set_up):
    assert set_up('demo').returncode == 0
    assert 'torchvision' not in set_up.calls()
    assert 'mmsegmentation==1.2.2' in set_up.installed()
    assert not [
        pin for pin in set_up.installed() if pin.startswith(('mmdet', 'pytest'))
    ]
    assert 'done' in set_up('all').stdout  # which is more
    assert set_up('demo').stdout == ''


def test_a_failure_is_one_line_and_the_next_call_goes_on(set_up):
    result = set_up(FAIL='uv pip install')
    assert result.returncode == 1
    assert result.stderr == (
        '[setup] failed: cannot install the pinned packages: ERROR: no answer from the '
        'index (all of it: .venv/setup.log)\n'
    )
    half = set_up.folder / '.venv/lib/python3.11/site-packages/scipy-1.dist-info'
    half.mkdir(parents=True)
    result = set_up()
    assert result.returncode == 0, result.stderr
    assert not half.exists()
    assert '--clear' not in set_up.calls()


def test_the_fork_is_never_beside_openmmlab(set_up):
    assert set_up(STACK='onedl').returncode == 0
    assert 'onedl-mmdetection==3.5.1' in set_up.installed()
    assert not [pin for pin in set_up.installed() if pin.startswith('mm')]


def test_compiled_operators_take_the_place_of_mmcv_lite(set_up):
    for part in ('demo', 'all'):  # the second one may not bring mmcv-lite back
        assert set_up(part, OPS='compiled').returncode == 0
        assert 'mmcv==2.1.0' in set_up.calls()
        assert 'ops link' not in set_up.calls()
        assert 'mmcv-lite==2.1.0' not in set_up.installed()


@pytest.mark.parametrize(
    ('change', 'complaint'),
    [
        (dict(STACK='openmmlab'), "STACK must be onedl or left out, not 'openmmlab'"),
        (dict(OPS='cuda'), "OPS must be compiled or left out, not 'cuda'"),
        (dict(OPS='compiled', STACK='onedl'), 'not STACK=onedl'),
        (dict(FAIL='version_info'), 'needs Python 3.10 to 3.13 with venv (./python is'),
    ],
)
def test_mistakes(set_up, change, complaint):
    result = set_up(**change)
    assert result.returncode == 1
    assert complaint in result.stderr
    assert not (set_up.folder / '.venv').exists()
