"""`ops link` writes one file, and only where mmcv has no operators of its own."""

import importlib.util
from importlib.machinery import EXTENSION_SUFFIXES

import pytest

from attn_plugins.__main__ import main
from attn_plugins.ops import link


@pytest.fixture
def mmcv(tmp_path, monkeypatch):
    """The folder of an mmcv-lite."""
    monkeypatch.setattr(link, 'mmcv_folder', lambda: tmp_path)
    monkeypatch.setattr(link, 'mmcv_distributions', lambda: ['mmcv-lite'])
    return tmp_path


@pytest.fixture
def ops(monkeypatch, capsys):
    """Runs the command, and returns its exit status and its lines."""

    def run(action):
        monkeypatch.setattr('sys.argv', ['attn_plugins', 'ops', action])
        status = main()
        return status, ''.join(capsys.readouterr())

    return run


def test_link_status_unlink(mmcv, ops):
    assert ops('status')[1].startswith('missing: ')
    assert ops('link') == ops('link')  # again is harmless
    assert ops('status')[1].startswith('linked: ')
    assert ops('unlink') == (0, f'removed {mmcv / "_ext.py"}\n')
    assert list(mmcv.iterdir()) == []
    assert ops('unlink')[0] == 0


def test_the_file_finds_operators_when_they_are_called(mmcv, ops):
    ops('link')
    spec = importlib.util.spec_from_file_location('mmcv._ext', mmcv / '_ext.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.get_compiling_cuda_version() == 'not available'
    assert hasattr(module, 'nms_quadri')  # mmcv asks for all when it is imported
    with pytest.raises(NotImplementedError, match=r'operator nms_quadri: install a co'):
        module.nms_quadri(1, 2, iou_threshold=0.5)


def test_a_compiled_mmcv_keeps_its_own(mmcv, ops):
    (mmcv / f'_ext{EXTENSION_SUFFIXES[0]}').touch()
    assert ops('link')[1].startswith('nothing to link: ')
    assert ops('status')[1].startswith('compiled: ')
    assert not (mmcv / '_ext.py').exists()


def test_a_file_of_somebody_else_stays(mmcv, ops):
    (mmcv / '_ext.py').write_text('nms = None\n')
    status, lines = ops('link')
    assert status == 1
    assert 'is not from this command' in lines
    assert 'nothing to unlink' in ops('unlink')[1]
    assert (mmcv / '_ext.py').read_text() == 'nms = None\n'


def test_not_with_mmcv_and_mmcv_lite_side_by_side(mmcv, ops, monkeypatch):
    monkeypatch.setattr(link, 'mmcv_distributions', lambda: ['mmcv', 'mmcv-lite'])
    status, lines = ops('link')
    assert status == 1
    assert 'mmcv and mmcv-lite are both installed' in lines
    assert list(mmcv.iterdir()) == []


def test_commands_that_are_not_there(monkeypatch, capsys):
    monkeypatch.setattr('sys.argv', ['attn_plugins', 'paint'])
    assert main() == 2
    assert "no command 'paint'" in capsys.readouterr().err
