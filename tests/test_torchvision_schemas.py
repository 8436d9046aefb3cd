"""torchvision whose compiled operators do not load: what importing the package does."""

import os
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

import pytest

# What torchvision/_meta_registrations.py does.
NEEDS_OPERATORS = """
import torch
for name in ('nms', 'qnms'):
    torch.library.register_fake(f'torchvision::{name}')(lambda dets, scores, _: dets)
"""
# The same in releases to 0.27: what their package needs first is a submodule, which
# stays in `sys.modules` when the import of the package fails.
OLD_RELEASE = {
    '__init__': 'from torchvision import _meta_registrations',
    'extension': 'def _has_ops(): return False',
    '_meta_registrations': (
        'import torchvision.extension\n'
        f'assert not torchvision.extension._has_ops()\n{NEEDS_OPERATORS}'
    ),
}
HAS_OPERATORS = """
import torch
library = torch.library.Library('torchvision', 'DEF')
library.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
library.define('qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
"""


@pytest.fixture
def check(tmp_path):
    """Runs code beside fake packages; no host but a fake mmpretrain can be imported."""

    def run(code, torchvision, mmpretrain='', hidden=('mmengine', 'mmseg', 'mmdet')):
        fakes = {'torchvision': torchvision, 'mmpretrain': mmpretrain}
        for package, files in fakes.items():
            if files is not None:
                (tmp_path / package).mkdir()
            if isinstance(files, str):
                files = {'__init__': files}
            for name, source in (files or {}).items():
                (tmp_path / package / f'{name}.py').write_text(source)
        hide = f'import sys; sys.modules.update(dict.fromkeys({hidden!r}))\n'
        result = subprocess.run(
            [sys.executable, '-W', 'ignore', '-c', hide + textwrap.dedent(code)],
            env={**os.environ, 'PYTHONPATH': str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr

    return run


def test_operators_are_declared_and_say_that_they_are_not_compiled(check):
    check(
        """
        import importlib, attn_plugins, torch, torchvision
        importlib.reload(attn_plugins)
        attn_plugins.register_all()
        for name in ('nms', 'qnms'):
            operator = getattr(torch.ops.torchvision, name)
            boxes = torch.rand(3, 4, device='meta')
            assert operator(boxes, boxes[:, 0], 0.5).shape == (3, 4)  # torchvision's
            try:
                operator(torch.rand(3, 4), torch.rand(3), 0.5)
            except NotImplementedError as error:
                assert 'not compiled here' in str(error)
            else:
                raise AssertionError
        """,
        torchvision=NEEDS_OPERATORS,
    )


@pytest.mark.parametrize('release', [NEEDS_OPERATORS, OLD_RELEASE])
def test_after_an_import_that_failed(check, release):
    check(
        """
        try:
            import torchvision
        except RuntimeError:
            import attn_plugins
            import torchvision
        else:
            raise AssertionError
        """,
        torchvision=release,
    )


def test_older_releases(check):
    check(
        """
        import attn_plugins, torchvision
        assert attn_plugins.torchvision_schemas._library is not None
        assert not torchvision.extension._has_ops()
        """,
        torchvision=OLD_RELEASE,
    )


def test_not_without_mmpretrain(check):
    check(
        """
        import attn_plugins, torch
        assert 'torchvision' not in sys.modules
        assert not hasattr(torch.ops.torchvision, 'nms')
        """,
        torchvision=NEEDS_OPERATORS,
        mmpretrain=None,
        hidden=('mmengine', 'mmseg', 'mmdet', 'mmpretrain'),
    )


@pytest.mark.parametrize('first', ['torchvision', 'attn_plugins'])
def test_operators_that_load_are_left_alone(check, first):
    check(
        f"""
        import {first}, torchvision, attn_plugins
        from attn_plugins import torchvision_schemas
        assert torchvision_schemas._library is None
        """,
        torchvision=HAS_OPERATORS,
    )


@pytest.mark.parametrize(
    'fault',
    [
        'RuntimeError("different CUDA major versions")',
        'ImportError("no PIL")',
        'AttributeError("module torch has no attribute x")',
        'AssertionError("Unexpected CUDA version")',
    ],
)
def test_other_faults_of_torchvision_are_left_alone(check, fault):
    check(
        """
        import attn_plugins, torch
        assert not hasattr(torch.ops.torchvision, 'nms')
        """,
        torchvision=f'raise {fault}',
    )


def test_torchvision_itself_without_its_library(check, tmp_path):
    pytest.importorskip('mmpretrain')
    (tmp_path / 'torchvision').mkdir()
    (installed,) = find_spec('torchvision').submodule_search_locations
    for path in Path(installed).iterdir():
        if not path.name.startswith(('_C', 'extension')):
            (tmp_path / 'torchvision' / path.name).symlink_to(path)
    # As it was before `make setup` added to it.
    extension = (Path(installed) / 'extension.py').read_text()
    unchanged = extension.partition('\n# Added by tools/setup_env.sh')[0]
    (tmp_path / 'torchvision/extension.py').write_text(unchanged)
    check(
        """
        import os, attn_plugins
        import torchvision, mmpretrain.datasets, mmpretrain.models
        from mmengine.runner.checkpoint import get_torchvision_models
        from mmengine.utils.dl_utils import collect_env
        assert os.path.islink(torchvision.__file__)
        assert attn_plugins.torchvision_schemas._library is not None
        assert 'resnet50' in get_torchvision_models()
        assert collect_env()['TorchVision'] == torchvision.__version__
        """,
        torchvision=None,
        mmpretrain=None,
        hidden=(),
    )
