"""From classifier to detector: what a backbone takes of other weights, and says so."""

import pytest
import torch

pytest.importorskip('mmdet')
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from torch.testing import assert_close

import attn_plugins  # noqa: F401 (registers)
from attn_plugins.functional import resize_table
from attn_plugins.mm.models import resnet

SMALL = dict(depth=50, stem_channels=16, base_channels=16)
FLAT = dict(strides=(1, 2, 2, 1), attn=dict(position='flat'), rel_pos_input_size=64)


@pytest.fixture(autouse=True)
def messages(monkeypatch) -> list[str]:
    """What the backbone reports about a load."""
    init_default_scope('mmdet')
    reported: list[str] = []
    monkeypatch.setattr(
        resnet, 'print_log', lambda message, **options: reported.append(message)
    )
    return reported


def saved(tmp_path, backbone) -> str:
    """A classifier's checkpoint with other numbers than any initialisation."""
    with torch.no_grad():
        for tensor in (*backbone.parameters(), *backbone.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    weights = {f'backbone.{k}': v for k, v in backbone.state_dict().items()}
    weights['head.fc.weight'] = torch.zeros(10, 2048)
    torch.save(dict(state_dict=weights, meta={}), tmp_path / 'classifier.pth')
    return str(tmp_path / 'classifier.pth')


def started_from(checkpoint: str, **config):
    init_cfg = dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.')
    backbone = MODELS.build(dict(init_cfg=init_cfg, **config))
    backbone.init_weights()
    return backbone


def test_lesa(tmp_path, messages):
    """All but the tables, and the two norms that have other channels."""
    source = MODELS.build(dict(type='LESAResNet', **SMALL, **FLAT))
    checkpoint = saved(tmp_path, source)
    detector = started_from(
        checkpoint, type='LESAResNet', rel_pos_input_size=96, **SMALL
    )
    given, own = source.state_dict(), detector.state_dict()
    fresh = {'rel_h', 'rel_w', 'similarity_norm', 'out_norm'}
    for name, tensor in own.items():
        if fresh & set(name.split('.')):
            assert (
                name not in given
                or not torch.equal(tensor, given[name])
                or ('num_batches_tracked' in name)
            )
        else:
            assert torch.equal(tensor, given[name]), name
    (message,) = messages
    assert message.startswith('393 of the 473 tensors of the backbone loaded; new: ')
    assert 'conv2.context.rel_h (8 times)' in message
    assert message.endswith('; not used: conv2.context.rel (8 times)')


def test_lesa_of_the_same_form_at_another_size(tmp_path, messages):
    """Nothing to report: tables are resized, with their own warning."""
    config = dict(type='LESAResNet', depth=18)
    source = MODELS.build(dict(rel_pos_input_size=64, **config))
    checkpoint = saved(tmp_path, source)
    with pytest.warns(UserWarning, match='position tables were resized from 4 to 8'):
        detector = started_from(checkpoint, rel_pos_input_size=128, **config)
    assert_close(
        detector.layer3[1].conv2.context.rel_h,
        resize_table(source.layer3[1].conv2.context.rel_h, 8),
    )
    assert messages == []


def test_gsa(tmp_path, messages):
    config = dict(type='GSAResNet', depth=18)
    source = MODELS.build(dict(rel_pos_input_size=64, **config))
    checkpoint = saved(tmp_path, source)
    with pytest.warns(UserWarning, match='position tables were resized from 16 to 24'):
        other = started_from(checkpoint, rel_pos_input_size=96, **config)
    given = source.state_dict()
    for name, tensor in other.state_dict().items():
        if name.endswith(('rel_h', 'rel_w')):
            size = (len(tensor) + 1) // 2
            wanted = resize_table(given[name], size, keep_sum=True)
        else:
            wanted = given[name]
        assert_close(tensor, wanted, msg=name)
    assert messages == []


def test_a_plain_resnets_weights(tmp_path, messages):
    checkpoint = saved(tmp_path, MODELS.build(dict(type='ResNet', depth=18)))
    started_from(checkpoint, type='LESAResNet', depth=18)
    (message,) = messages
    assert 'conv2.local.conv.weight (3 times)' in message
    assert message.endswith(
        'not used: conv2.weight (3 times), '
        'bn2.weight (3 times), bn2.bias (3 times), '
        'bn2.running_mean (3 times), bn2.running_var (3 times), '
        'bn2.num_batches_tracked (3 times)'
    )


def test_a_forgotten_prefix(tmp_path, messages):
    source = MODELS.build(dict(type='GSAResNet', depth=18))
    checkpoint = saved(tmp_path, source)
    init_cfg = dict(type='Pretrained', checkpoint=checkpoint)
    MODELS.build(dict(type='GSAResNet', depth=18, init_cfg=init_cfg)).init_weights()
    (message,) = messages
    assert message.startswith('0 of the ')
    assert "add prefix='backbone.' to init_cfg" in message
