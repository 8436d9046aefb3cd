"""Every key is accounted for, and what is not known is refused with the nearest kin."""

import pytest
import torch
from released_files import released_state_dict, thin_state_dict
from torch import Tensor

from attn_plugins.released.convert import LAYOUTS, convert, recognise


@pytest.fixture(scope='module')
def classifier() -> dict[str, Tensor]:
    return thin_state_dict('lesa_resnet50_imagenet')


def account(conversion) -> list[str]:
    return [*conversion.kept, *conversion.renamed, *conversion.dropped]


@pytest.mark.parametrize('layout', LAYOUTS, ids=lambda layout: layout.name)
def test_layouts_are_told_apart(layout):
    assert recognise(layout.table) is layout
    new = [entry.new for entry in layout.table.values() if entry.new]
    assert len(set(new)) == len(new)
    for entry in layout.table.values():
        assert bool(entry.why) == (entry.new is None)


@pytest.mark.parametrize('prefix', ['', 'module.'])
@pytest.mark.parametrize('wrapped', [False, True])
def test_wrapping_and_prefix_make_no_difference(classifier, prefix, wrapped):
    checkpoint = {prefix + key: value for key, value in classifier.items()}
    if wrapped:
        checkpoint = dict(epoch=3, state_dict=checkpoint, optimizer={})
    conversion = convert(checkpoint)
    assert conversion.layout.name == 'LESA-50 classifier'
    assert conversion.state_dict.keys() == convert(classifier).state_dict.keys()
    assert conversion.left_out == (['epoch', 'optimizer'] if wrapped else [])


def test_every_key_is_accounted_for(classifier):
    conversion = convert(classifier)
    assert sorted(account(conversion)) == sorted(classifier)
    assert set(conversion.renamed.values()) == conversion.state_dict.keys()
    assert conversion.missing == []
    assert len(conversion.dropped) == 8
    assert all(key.endswith('.flatten_index') for key in conversion.dropped)
    assert all(key.endswith('qkv_transform.weight') for key in conversion.reshaped)


def test_missing_keys(classifier):
    old = {
        key: value
        for key, value in classifier.items()
        if not key.endswith('.num_batches_tracked') and not key.startswith('fc.')
    }
    conversion = convert(old)
    assert sorted(account(conversion)) == sorted(old)
    assert sorted([*old, *conversion.missing]) == sorted(classifier)


def test_result_shares_no_storage_with_the_input_or_within():
    state_dict = released_state_dict('eanet_resnet50_voc')
    # On a CPU the released code keeps both memories in one storage.
    tied = state_dict['linu.linear_0.weight']
    state_dict['linu.linear_1.weight'] = tied.transpose(0, 1)
    converted = convert(state_dict).state_dict
    storages = {value.untyped_storage().data_ptr() for value in converted.values()}
    assert len(storages) == len(converted)
    assert storages.isdisjoint(
        value.untyped_storage().data_ptr() for value in state_dict.values()
    )
    key = converted['decode_head.attn.key.weight']
    assert torch.equal(converted['decode_head.attn.value.weight'], key.T)


def test_class_names_of_mmdet_2(classifier):
    meta = dict(CLASSES=('nut', 'bolt'), PALETTE=[(1, 2, 3), (4, 5, 6)], seed=None)
    conversion = convert(dict(state_dict=classifier, meta=meta))
    assert conversion.meta['dataset_meta'] == dict(
        classes=('nut', 'bolt'), palette=[(1, 2, 3), (4, 5, 6)]
    )
    assert conversion.left_out == ['meta (all but its class names)']
    assert 'dataset_meta' not in convert(classifier).meta


def test_closest_layout_is_named(classifier):
    classifier = dict(classifier)
    del classifier['layer3.1.conv2.relative'], classifier['conv1.weight']
    classifier['neck.weight'] = torch.zeros(1)
    with pytest.raises(ValueError, match='this layout is unknown') as error:
        convert(classifier)
    assert str(error.value).endswith(
        'It is closest to that of "LESA-50 classifier", compared with which it lacks '
        'conv1.weight, layer3.1.conv2.relative, and it also has neck.weight.'
    )


def test_only_the_first_keys_are_listed(classifier):
    classifier = {
        key: value for key, value in classifier.items() if 'layer1' not in key
    }
    with pytest.raises(ValueError, match=r'layer1\.0\.bn1\.bias, .* and \d+ more\.$'):
        convert(classifier)


def test_foreign_checkpoints_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r'are vit\.cls_token\. Known') as error:
        convert({'vit.cls_token': torch.zeros(1)})
    assert all(layout.name in str(error.value) for layout in LAYOUTS)


@pytest.mark.parametrize(
    ('checkpoint', 'got'),
    [
        ([1], 'got list'),
        ({}, 'got dict without entries'),
        ({'state_dict': {}}, 'got dict without entries'),
        ({'state_dict': None}, 'got NoneType'),
        ({'model': {}}, "'model' is a dict, not a tensor"),
        ({3: torch.zeros(1)}, '3 is a Tensor'),
    ],
)
def test_what_is_no_state_dict_is_refused(checkpoint, got):
    with pytest.raises(ValueError, match=f'expected a state dict.*{got}'):
        convert(checkpoint)


def test_doubled_keys_are_refused(classifier):
    doubled = {**classifier, 'module.fc.bias': torch.zeros(1)}
    with pytest.raises(ValueError, match=r'there twice, with and without "module\."'):
        convert(doubled)
