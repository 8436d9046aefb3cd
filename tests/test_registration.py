"""Frameworks get our components when imported, and are imported by their user alone."""

import subprocess
import sys
import textwrap

import pytest

MM = ('mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmpretrain', 'torchvision')


def run(code: str, hidden: tuple[str, ...] = ()) -> str:
    """Runs code in a fresh interpreter in which some packages cannot be found.

    Returns:
        What it writes to stderr.
    """
    hide = f'import sys; sys.modules.update(dict.fromkeys({hidden!r}))\n'
    result = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', hide + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stderr


def test_with_torch_alone():
    run(
        """
        import attn_plugins, torch
        from attn_plugins.modules import ExternalAttention2d
        from attn_plugins.registration import registered_components
        assert ExternalAttention2d(8)(torch.rand(1, 8, 5, 7)).shape == (1, 8, 5, 7)
        attn_plugins.register_all()
        assert registered_components() == {}
        """,
        hidden=MM,
    )


def test_no_host_is_imported_but_by_its_user():
    pytest.importorskip('mmengine')
    run(
        f"""
        import sys, attn_plugins, attn_plugins.modules
        from attn_plugins.registration import registered_components
        assert not set({MM!r}) & sys.modules.keys()

        from mmengine.config import Config
        from mmengine.registry import HOOKS, LOOPS, MODELS, TRANSFORMS
        MODELS.build(dict(type='ExternalAttention2d', in_channels=8))
        assert not {{'mmengine.runner', *{MM[1:]!r}}} & sys.modules.keys()

        import mmengine.runner
        assert not set({MM[1:]!r}) & sys.modules.keys()
        from mmengine.runner.checkpoint import CheckpointLoader
        assert list(registered_components()) == ['mmengine']
        for name in registered_components()['mmengine']:
            found = [r.get(name) for r in (MODELS, HOOKS, LOOPS, TRANSFORMS)]
            assert [c.__name__ for c in found if c] == [name]
        loader = CheckpointLoader._get_checkpoint_loader('weights.pth')
        assert loader.__module__ == 'attn_plugins.mm.engine.loading'
        """
    )


ORDERS = {
    'first': """
        import attn_plugins
        from {host}.registry import MODELS
        """,
    'last': """
        import {host}.models, mmengine.runner
        import attn_plugins
        """,
    # As in a framework that somebody has added our layers to.
    'within': """
        class Finder:
            def find_spec(self, name, path=None, target=None):
                if name == '{host}.models.necks':
                    import attn_plugins

        sys.meta_path.insert(0, Finder())
        import {host}.models
        """,
}


@pytest.mark.parametrize(
    ('host', 'order'),
    [
        ('mmseg', 'within'),
        pytest.param('mmdet', 'first', marks=pytest.mark.slow),
        pytest.param('mmpretrain', 'last', marks=pytest.mark.slow),
    ],
)
def test_with_one_host(host, order):
    pytest.importorskip(host)
    check = """
        from {host}.registry import HOOKS, LOOPS, MODELS, TRANSFORMS
        assert MODELS.get('LESAResNet').__module__.startswith('attn_plugins.mm.')
        layer = dict(in_channels=8, norm_cfg=dict(type='BN'))
        MODELS.build(dict(type='ExternalAttention2d', **layer))
        MODELS.build(dict(type='EANeck', in_channels=[8, 16], num_slots=4))
        assert HOOKS.get('TermWeightHook') and HOOKS.get('CheckBatchHook')
        assert LOOPS.get('ResumableIterBasedTrainLoop')

        from attn_plugins.registration import host_errors, registered_components
        assert list(registered_components()) == ['mmengine', '{host}']
        for name in registered_components()['{host}']:
            assert MODELS.get(name).__name__ == name
        assert host_errors() == {{}}
        spec = sys.modules['{host}.models'].__spec__
        assert type(spec.loader).__name__ == 'SourceFileLoader'
        """
    run(
        (ORDERS[order] + check).format(host=host),
        hidden=tuple({'mmseg', 'mmdet', 'mmpretrain'} - {host}),
    )


@pytest.mark.slow
@pytest.mark.parametrize('module', ['mm.engine.loading', 'mm.models.eamlp'])
def test_a_module_of_ours_that_brings_its_framework(module):
    pytest.importorskip('mmpretrain')
    run(
        f"""
        import attn_plugins.{module}
        from attn_plugins.registration import host_errors, registered_components
        assert host_errors() == {{}}
        assert 'ResumableCheckpointHook' in registered_components()['mmengine']
        if {module!r} == 'mm.models.eamlp':
            from mmpretrain.registry import MODELS
            assert MODELS.get('EAMLP') is attn_plugins.mm.models.eamlp.EAMLP
        """,
        hidden=('mmdet', 'mmseg'),
    )


def test_hosts_that_lack_something_are_left_alone():
    pytest.importorskip('mmpretrain')
    run(
        """
        import attn_plugins
        from attn_plugins.registration import missing_modules, registered_components
        assert missing_modules('mmseg') == ('mmcv._ext', 'ftfy')
        assert missing_modules('mmpretrain') == ('torchvision', 'mat4py')
        attn_plugins.register_all()
        assert list(registered_components()) == ['mmengine']
        assert not {'mmseg', 'mmpretrain'} & sys.modules.keys()
        """,
        hidden=('mmcv._ext', 'ftfy', 'torchvision', 'mat4py', 'mmdet'),
    )


def test_what_fails_is_reported_and_the_rest_works():
    pytest.importorskip('mmseg')
    said = run(
        """
        import warnings
        warnings.simplefilter('always')
        import attn_plugins
        from attn_plugins.registration import host_errors, registered_components

        # A host's own error is its user's.
        sys.modules['mmseg.version'] = None
        try:
            import mmseg.models
        except ModuleNotFoundError as error:
            assert error.name == 'mmseg.version'
        assert host_errors() == {}
        attn_plugins.register_all()
        assert host_errors()['mmseg'].startswith('ModuleNotFoundError: ')
        assert 'TermWeightHook' in registered_components()['mmengine']

        # Ours is not.
        del sys.modules['mmseg.version']
        sys.modules['attn_plugins.mm.models.segmentation'] = None
        import mmseg.models
        from mmseg.registry import MODELS
        assert MODELS.get('FCNHead') and MODELS.get('EANeck')
        assert 'mmseg' not in registered_components()
        """,
        hidden=('mmdet', 'mmpretrain'),
    )
    assert said.count('cannot register all it has for mmseg (ModuleNotFoundError') == 1
    assert 'python -m attn_plugins doctor' in said


@pytest.mark.slow
def test_importing_and_registering_again_is_harmless():
    pytest.importorskip('mmseg')
    run(
        """
        import importlib, warnings
        warnings.simplefilter('error', UserWarning)
        import attn_plugins
        from attn_plugins import registration
        importlib.reload(registration)
        importlib.reload(attn_plugins)
        from mmengine.utils import import_modules_from_strings
        import_modules_from_strings(imports=['attn_plugins', 'attn_plugins'])
        warnings.simplefilter('ignore')  # of the hosts
        attn_plugins.register_all()
        before = registration.registered_components()
        assert before['mmseg'] and not registration.host_errors()
        attn_plugins.register_all()
        import mmseg.models
        importlib.reload(mmseg.models)
        assert registration.registered_components() == before
        assert not registration.host_errors()
        """,
        hidden=('mmdet', 'mmpretrain'),
    )
