"""The doctor, with parts of the stack hidden or broken; twice as users run it."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from attn_plugins.cli import doctor as doctor_module
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


def run_hiding(tmp_path, hidden):
    """Runs the doctor in a process of its own."""
    (tmp_path / 'sitecustomize.py').write_text(HIDE.format(hidden=tuple(hidden)))
    return subprocess.run(
        [sys.executable, '-m', 'attn_plugins', 'doctor'],
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(tmp_path)},
        capture_output=True,
        text=True,
    )


def states(text):
    """Returns the state of each row of the table."""
    words = {'ok', 'note', 'missing', 'broken'}
    # Before it there may be what the fork's mm packages print when they are imported.
    table = text[text.index('Python  ') :].split('\n\n')[0]
    rows = [line.split() for line in table.splitlines()]
    return {row[0]: next(word for word in row if word in words) for row in rows}


@pytest.mark.slow
def test_all_that_the_main_job_needs_is_there(tmp_path):
    # Optional parts hidden: they are no reason to fail.
    result = run_hiding(tmp_path, ['mmdet', 'mmpretrain', 'torchvision'])
    assert result.returncode == 0, result.stdout + result.stderr
    found = states(result.stdout)
    assert found['mmseg'] == found['torch'] == found['registered'] == 'ok'
    assert found['mmdet'] == found['mmpretrain'] == found['torchvision'] == 'missing'
    assert 'mmseg: EAHead' in result.stdout
    assert 'can run' in result.stdout
    assert stack_pins()['mmdet'] in result.stdout
    assert torchvision_requirement(torch.__version__) in result.stdout


def test_torch_alone(tmp_path):
    result = run_hiding(tmp_path, [*HOSTS, 'ftfy', 'regex', 'pkg_resources'])
    assert result.returncode == 1
    assert 'Traceback' not in result.stderr
    found = states(result.stdout)
    assert found['torch'] == 'ok'
    assert found['mmengine'] == found['mmcv'] == found['mmseg'] == 'missing'
    assert found['registered'] == 'broken'
    fixes = result.stdout.partition('To fix it, in this order:')[2].partition('\n\n')[0]
    pip = f'{sys.executable} -m pip install '
    for requirement in ('setuptools==80.9.0', 'ftfy', 'regex'):
        assert f'  {pip}{requirement}\n' in fixes
    for module in ('mmengine', 'mmcv', 'mmseg'):
        assert stack_pins()[module] in fixes
    assert 'mmdet' not in fixes


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


def missing(name):
    return ModuleNotFoundError(f'No module named {name!r}', name=name)


@pytest.fixture
def doctor(monkeypatch, capsys):
    """Runs the doctor where some imports fail: exit status, states, output."""
    pytest.importorskip('mmseg')
    load = importlib.import_module

    def run(**errors):
        errors = {name.replace('__', '.'): error for name, error in errors.items()}

        def import_module(name, package=None):
            if name in errors:
                raise errors[name]
            return load(name, package)

        monkeypatch.setattr(sys, 'argv', ['doctor'])
        with monkeypatch.context() as patch:
            patch.setattr(importlib, 'import_module', import_module)
            status = doctor_module.main()
        out = capsys.readouterr().out
        return status, states(out), out

    return run


def commands(out):
    return [line[2:] for line in out.splitlines() if line.startswith('  /')]


@pytest.mark.slow
def test_undeclared_need_of_mmseg(doctor):
    status, found, out = doctor(ftfy=missing('ftfy'))
    assert status == 1
    assert found['ftfy'] == 'missing'
    assert f'{sys.executable} -m pip install ftfy' in commands(out)


def test_mmcv_without_ops(doctor):
    status, _, out = doctor(mmcv__ops=missing('mmcv._ext'))
    assert status == 1
    assert "No module named 'mmcv._ext'" in out
    assert f'{sys.executable} -m attn_plugins ops link' in commands(out)


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


@pytest.mark.slow
def test_versions_that_clash(doctor):
    refusal = 'MMCV==2.2.0 is used but incompatible. Please install mmcv>=2.0.0rc4.'
    status, found, out = doctor(mmseg__apis=AssertionError(refusal))
    assert status == 1
    assert found['mmseg'] == 'broken'
    assert refusal in out
    assert stack_pins()['mmcv'] in commands(out)[0]


@pytest.mark.slow
def test_opencv_without_libgl(doctor):
    error = 'libGL.so.1: cannot open shared object file: No such file or directory'
    status, _, out = doctor(mmcv=ImportError(error))
    assert status == 1
    assert error in out
    assert 'uninstall -y opencv-python ' in out
    assert 'install opencv-python-headless==' in out


@pytest.mark.slow
def test_needs_of_mmpretrain(doctor):
    error = missing('modelindex')
    status, found, out = doctor(mmpretrain__models=error, mmpretrain__datasets=error)
    assert status == 0
    assert found['mmpretrain'] == 'broken'
    assert f'{sys.executable} -m pip install model-index==0.1.11' in commands(out)
    error = missing('mmpretrain')
    _, found, out = doctor(mmpretrain__models=error, mmpretrain__datasets=error)
    assert found['mmpretrain'] == 'missing'
    pin = stack_pins()['mmpretrain']
    assert f'{sys.executable} -m pip install {pin}' in commands(out)


@pytest.mark.slow
def test_torchvision_for_another_cuda(doctor, monkeypatch):
    monkeypatch.setattr(
        doctor_module, 'examine_torchvision_ops', doctor_module.examine_python
    )
    error = 'PyTorch and torchvision were compiled with different CUDA major versions'
    error = RuntimeError(error)
    names = ('torchvision', 'mmpretrain__models', 'mmpretrain__datasets')
    _, found, out = doctor(**dict.fromkeys(names, error))
    assert found['torchvision'] == found['mmpretrain'] == 'broken'
    (command,) = commands(out)
    assert command.endswith(f' install {torchvision_requirement(torch.__version__)}')


def test_torchvision_without_operators(monkeypatch):
    extension = pytest.importorskip('torchvision.extension')
    monkeypatch.setattr(extension, '_has_ops', lambda: False)
    found = doctor_module.examine_torchvision_ops()
    assert found.state == 'note'
    assert 'do not load with this torch' in found.detail
    assert torchvision_requirement(torch.__version__) in found.fix


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
