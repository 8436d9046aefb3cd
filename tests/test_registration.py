"""Importing registers what the installed hosts can use, and never more than that."""

import subprocess
import sys
import textwrap

import pytest

MM = ('mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmpretrain')


def run(code: str, hidden: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    """Runs code in a fresh interpreter in which some packages cannot be found."""
    hide = f'import sys; sys.modules.update(dict.fromkeys({hidden!r}))\n'
    return subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', hide + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
    )


def check(code: str, hidden: tuple[str, ...] = ()) -> None:
    result = run(code, hidden)
    assert result.returncode == 0, result.stderr


def test_with_torch_alone():
    check(
        """
        import attn_plugins, torch
        from attn_plugins.modules import ExternalAttention2d
        from attn_plugins.registration import registered_components
        assert registered_components() == {}
        assert ExternalAttention2d(8)(torch.rand(1, 8, 5, 7)).shape == (1, 8, 5, 7)
        assert not any(map(sys.modules.get, ('mmengine', 'mmcv', 'mmseg', 'mmdet')))
        assert 'torchvision' not in sys.modules
        """,
        hidden=MM,
    )


@pytest.mark.parametrize('host', ['mmseg', 'mmdet', 'mmpretrain'])
def test_with_one_host(host):
    pytest.importorskip(host)
    check(
        f"""
        import attn_plugins
        from attn_plugins.registration import registered_components
        from {host}.registry import MODELS
        layer = dict(in_channels=8, norm_cfg=dict(type='BN'))
        MODELS.build(dict(type='ExternalAttention2d', **layer))
        MODELS.build(dict(type='EANeck', in_channels=[8, 16], num_slots=4))
        for other in ('mmseg', 'mmpretrain'):
            assert (other in registered_components()) == (other == {host!r})
        """,
        hidden=tuple({'mmseg', 'mmdet', 'mmpretrain'} - {host}),
    )


def test_a_host_without_its_compiled_ops_is_left_alone():
    pytest.importorskip('mmseg')
    check(
        """
        import attn_plugins
        from attn_plugins.registration import missing_modules, registered_components
        assert missing_modules('mmseg') == ('mmcv._ext', 'ftfy')
        assert list(registered_components()) == ['mmengine']
        assert 'mmseg' not in sys.modules
        """,
        hidden=('mmcv._ext', 'ftfy', 'mmpretrain'),
    )


def test_mmpretrain_without_torchvision_is_left_alone():
    pytest.importorskip('mmpretrain')
    check(
        """
        import attn_plugins
        from attn_plugins.registration import missing_modules, registered_components
        assert missing_modules('mmpretrain') == ('torchvision', 'mat4py')
        assert list(registered_components()) == ['mmengine']
        """,
        hidden=('torchvision', 'mat4py', 'mmseg', 'mmdet'),
    )


def test_a_host_that_fails_to_import_is_reported_and_others_work():
    pytest.importorskip('mmseg')
    result = run(
        """
        import warnings
        warnings.simplefilter('always')
        import mmcv
        mmcv.__version__ = '9.9.9'  # mmseg asserts a version range when imported
        import attn_plugins
        from attn_plugins.registration import host_errors, registered_components
        assert 'mmengine' in registered_components()
        assert 'mmseg' not in registered_components()
        assert host_errors()['mmseg'].startswith('AssertionError: MMCV==9.9.9')
        """
    )
    assert result.returncode == 0, result.stderr
    assert 'registers nothing in mmseg' in result.stderr
    assert 'python -m attn_plugins.doctor' in result.stderr


def test_importing_and_registering_again_is_harmless():
    pytest.importorskip('mmseg')
    check(
        """
        import importlib, attn_plugins
        from attn_plugins.registration import registered_components
        before = registered_components()
        attn_plugins.register_all()
        importlib.reload(attn_plugins)
        from mmengine.utils import import_modules_from_strings
        import_modules_from_strings(imports=['attn_plugins', 'attn_plugins'])
        assert registered_components() == before != {}
        """
    )


def test_names_are_what_configs_say():
    pytest.importorskip('mmseg')
    from mmengine.registry import MODELS
    from mmseg.registry import MODELS as MMSEG_MODELS

    import attn_plugins  # noqa: F401 (registers)

    assert MODELS.get('ExternalAttention2d').__name__ == 'ExternalAttention2d'
    assert MODELS.get('EANeck').__name__ == 'EANeck'
    assert MMSEG_MODELS.get('EAHead').__name__ == 'EAHead'
