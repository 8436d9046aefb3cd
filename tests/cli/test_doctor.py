"""The doctor, run as users run it, with parts of the stack hidden or broken."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from attn_plugins.cli.doctor import (
    STACKS,
    examine_operators,
    examine_stack,
    fix_command,
    stack_pins,
    torchvision_requirement,
)

ROOT = Path(__file__).parents[2]
HOSTS = ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'torchvision')

# Python runs this at its start: the named modules are not found, as if not installed.
HIDE = """
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec

def find_unless_hidden(name, path=None, target=None):
    return None if name in {hidden!r} else find_spec(name, path, target)

PathFinder.find_spec = find_unless_hidden
"""


@pytest.fixture
def doctor(tmp_path):
    def run(hidden=(), fakes=None):
        (tmp_path / 'sitecustomize.py').write_text(HIDE.format(hidden=tuple(hidden)))
        for name, source in (fakes or {}).items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(source)
        return subprocess.run(
            [sys.executable, '-m', 'attn_plugins', 'doctor'],
            cwd=ROOT,
            env={**os.environ, 'PYTHONPATH': str(tmp_path)},
            capture_output=True,
            text=True,
        )

    return run


def states(result):
    """Returns the state of each row of the table."""
    words = {'ok', 'note', 'missing', 'broken'}
    # Before it there may be what the fork's mm packages print when they are imported.
    table = result.stdout[result.stdout.index('Python  ') :].split('\n\n')[0]
    rows = [line.split() for line in table.splitlines()]
    return {row[0]: next(word for word in row if word in words) for row in rows}


def test_all_that_the_main_job_needs_is_there(doctor):
    # Optional parts hidden: they are no reason to fail.
    result = doctor(hidden=['mmdet', 'mmpretrain', 'torchvision'])
    assert result.returncode == 0, result.stdout + result.stderr
    found = states(result)
    assert found['mmseg'] == found['torch'] == found['registered'] == 'ok'
    assert found['mmdet'] == found['mmpretrain'] == found['torchvision'] == 'missing'
    assert 'mmseg: EAHead' in result.stdout
    assert 'can run' in result.stdout
    assert stack_pins()['mmdet'] in result.stdout
    assert torchvision_requirement(torch.__version__) in result.stdout


def test_torch_alone(doctor):
    result = doctor(hidden=[*HOSTS, 'ftfy', 'regex', 'pkg_resources'])
    assert result.returncode == 1
    assert 'Traceback' not in result.stderr
    found = states(result)
    assert found['torch'] == 'ok'
    assert found['mmengine'] == found['mmcv'] == found['mmseg'] == 'missing'
    assert found['registered'] == 'broken'
    mend = result.stdout.partition('To fix it, in this order:')[2].partition('\n\n')[0]
    pip = f'{sys.executable} -m pip install '
    for requirement in ('setuptools==80.9.0', 'ftfy', 'regex'):
        assert f'  {pip}{requirement}\n' in mend
    for module in ('mmengine', 'mmcv', 'mmseg'):
        assert stack_pins()[module] in mend
    assert 'mmdet' not in mend


# --- the stacks --------------------------------------------------------------

STOCK, FORK = STACKS['OpenMMLab'], STACKS['onedl']


@pytest.fixture
def install(monkeypatch):
    """Makes distributions look installed, instead of those that are."""

    def installed(**found):
        monkeypatch.setattr(
            'attn_plugins.cli.doctor.packages_distributions', lambda: found
        )

    return installed


def test_pins_of_the_stacks_are_those_of_set_up():
    lines = ''.join(path.read_text() for path in ROOT.glob('constraints*.txt'))
    assert {*STOCK.values(), *FORK.values()} <= set(lines.splitlines())


def test_stack_is_told_by_its_distributions(install):
    for mmcv in ('mmcv', 'mmcv_lite'):
        install(mmcv=[mmcv], numpy=['numpy'])
        found = examine_stack()
        assert (found.version, found.state) == ('OpenMMLab', 'ok')
    install(mmcv=['onedl-mmcv'], mmseg=['onedl_mmsegmentation'])
    found = examine_stack()
    assert (found.version, found.state) == ('onedl', 'ok')
    assert 'fork' in found.detail
    install()
    assert examine_stack().state == 'note'


@pytest.mark.parametrize(
    ('found', 'pins'),
    [
        (dict(mmengine=['mmengine']), STOCK),
        (dict(mmengine=['onedl-mmengine']), FORK),
        (dict(), STOCK),
    ],
)
def test_each_stack_is_mended_with_its_own(install, found, pins):
    install(cv2=['opencv-python-headless'], **found)
    for module, pin in pins.items():
        command = fix_command(module).partition(' && ')[0]
        assert command.endswith(f' {pin}')
        # All but one ask for opencv-python, which would overwrite the headless one.
        assert ('--no-deps' in command) == (module != 'mmpretrain')
    assert fix_command('mmcv').endswith(' -m attn_plugins ops link')


def test_mixed_stacks_are_taken_apart(install):
    install(mmcv=['mmcv', 'onedl-mmcv'], mmengine=['onedl-mmengine'])
    found = examine_stack()
    assert found.stops_the_main_job
    assert 'overwrite each other in mmcv' in found.detail
    assert found.fix.endswith(' uninstall -y mmcv onedl-mmcv onedl-mmengine')
    install(mmcv=['mmcv'], mmengine=['onedl-mmengine'])
    found = examine_stack()
    assert found.state == 'broken'
    assert not found.stops_the_main_job


# --- parts that are broken ---------------------------------------------------


def test_undeclared_need_of_mmseg(doctor):
    result = doctor(hidden=['ftfy'])
    assert result.returncode == 1
    assert states(result)['ftfy'] == 'missing'
    assert f'  {sys.executable} -m pip install ftfy\n' in result.stdout


def test_mmcv_without_ops(doctor):
    result = doctor(hidden=['mmcv._ext'])
    assert result.returncode == 1
    assert 'Traceback' not in result.stderr
    assert "No module named 'mmcv._ext'" in result.stdout
    assert f'  {sys.executable} -m attn_plugins ops link\n' in result.stdout


def test_mmcv_and_mmcv_lite_side_by_side(monkeypatch):
    pytest.importorskip('mmcv')
    both = ['mmcv', 'mmcv-lite']
    monkeypatch.setattr('attn_plugins.cli.doctor.mmcv_distributions', lambda: both)
    monkeypatch.setattr('attn_plugins.cli.doctor.version', lambda name: '2.1.0')
    for binary, surplus, mend in (
        (None, 'mmcv', ' -m attn_plugins ops link'),
        ('_ext.so', 'mmcv-lite', ' install --force-reinstall --no-deps mmcv==2.1.0'),
    ):
        monkeypatch.setattr('attn_plugins.cli.doctor.compiled', lambda _, b=binary: b)
        found = examine_operators()
        assert found.stops_the_main_job
        assert found.detail.endswith(f'overwrite each other: {surplus} has to go')
        assert found.fix.endswith(mend)


def test_versions_that_clash(doctor):
    refusal = 'MMCV==2.2.0 is used but incompatible. Please install mmcv>=2.0.0rc4.'
    fakes = {'mmseg/__init__.py': f'raise AssertionError({refusal!r})'}
    result = doctor(fakes=fakes)
    assert result.returncode == 1
    assert 'Traceback' not in result.stderr
    assert states(result)['mmseg'] == 'broken'
    assert refusal in result.stdout
    mend = result.stdout.partition('To fix it, in this order:')[2]
    assert stack_pins()['mmcv'] in mend.partition('\n\n')[0]


def test_opencv_without_libgl(doctor):
    error = 'libGL.so.1: cannot open shared object file: No such file or directory'
    result = doctor(fakes={'cv2/__init__.py': f'raise ImportError({error!r})'})
    assert result.returncode == 1
    assert 'Traceback' not in result.stderr
    assert error in result.stdout
    assert 'uninstall -y opencv-python ' in result.stdout
    assert 'install opencv-python-headless==' in result.stdout


def commands(result):
    return [line[2:] for line in result.stdout.splitlines() if line.startswith('  /')]


def test_needs_of_mmpretrain(doctor):
    pytest.importorskip('mmpretrain')
    result = doctor(hidden=['modelindex'])
    assert result.returncode == 0, result.stdout + result.stderr
    assert states(result)['mmpretrain'] == 'broken'
    assert f'{sys.executable} -m pip install model-index==0.1.11' in commands(result)


def test_mmpretrain_brings_what_it_needs(doctor):
    result = doctor(hidden=['mmpretrain', 'mmdet'])
    assert states(result)['mmpretrain'] == 'missing'
    pin = stack_pins()['mmpretrain']
    assert f'{sys.executable} -m pip install {pin}' in commands(result)


def test_torchvision_for_another_cuda(doctor):
    pytest.importorskip('mmpretrain')
    error = 'PyTorch and torchvision were compiled with different CUDA major versions'
    result = doctor(fakes={'torchvision/__init__.py': f'raise RuntimeError({error!r})'})
    assert 'Traceback' not in result.stderr
    found = states(result)
    assert found['torchvision'] == found['mmpretrain'] == 'broken'
    (command,) = commands(result)
    assert command.endswith(f' install {torchvision_requirement(torch.__version__)}')


def test_torchvision_without_operators(doctor):
    pytest.importorskip('mmpretrain')
    fakes = {
        'torchvision/__init__.py': '',
        'torchvision/extension.py': 'def _has_ops(): return False',
    }
    result = doctor(fakes=fakes, hidden=['mmdet', 'mmseg'])
    assert 'torchvision ops' in result.stdout
    assert states(result)['torchvision'] == 'note'
    assert 'do not load with this torch' in result.stdout
    assert torchvision_requirement(torch.__version__) in result.stdout


@pytest.mark.parametrize(
    ('torch_version', 'requirement'),
    [
        ('2.13.0', 'torchvision==0.28.0'),
        ('2.7.1+cu126', 'https://download.pytorch.org/whl/cu126 torchvision==0.22.1'),
        ('2.6.0+cpu', 'https://download.pytorch.org/whl/cpu torchvision==0.21.0'),
        ('2.9.0a0+git1a2b', '--force-reinstall torchvision==0.24.0'),
    ],
)
def test_torchvision_of_a_torch(torch_version, requirement):
    assert torchvision_requirement(torch_version).endswith(requirement)
