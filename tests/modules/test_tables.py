"""Checkpoints whose position tables have another reference size."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from attn_plugins.functional.relpos import resize_table
from attn_plugins.modules.tables import resize_tables_on_load


class Layer(nn.Module):
    """Two tables for maps of ``size``, one of them inside a submodule."""

    def __init__(self, size: tuple[int, int], width: int = 3) -> None:
        super().__init__()
        self.rel_h = nn.Parameter(torch.randn(2 * size[0] - 1, width))
        self.context = nn.Module()
        self.context.rel_w = nn.Parameter(torch.randn(2 * size[1] - 1, width))
        resize_tables_on_load(self, ('rel_h', 'context.rel_w'))


class Flat(nn.Module):
    def __init__(self, columns: int) -> None:
        super().__init__()
        self.rel = nn.Parameter(torch.randn(4, columns))
        resize_tables_on_load(self, fixed=('rel',))


class Backbone(nn.Sequential):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        resize_tables_on_load(self)


def test_tables_are_resized_and_the_state_dict_is_left_alone():
    source, target = Layer((5, 4)), Layer((3, 9))
    state = source.state_dict()
    with pytest.warns(UserWarning, match='from 5 to 3 positions: rel_h; from 4 to 9'):
        target.load_state_dict(state)
    assert_close(target.rel_h, resize_table(source.rel_h, 3), rtol=0, atol=0)
    assert_close(
        target.context.rel_w, resize_table(source.context.rel_w, 9), rtol=0, atol=0
    )
    assert state['rel_h'].shape == (9, 3)


def test_equal_sizes_load_bit_for_bit_without_a_warning():
    source, target = Layer((5, 4)), Layer((5, 4))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        target.load_state_dict(source.state_dict())
    assert torch.equal(target.rel_h, source.rel_h)


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_a_backbone_warns_once_for_all_its_layers(prefix):
    def build(size):
        backbone = Backbone(Layer((size, size)), Layer((size, size)), nn.BatchNorm1d(3))
        return nn.ModuleDict({'backbone': backbone}) if prefix else backbone

    target = build(7)
    message = f'from 5 to 7 positions: {prefix}0.rel_h and 3 more'
    with pytest.warns(UserWarning, match=message) as record:
        target.load_state_dict(build(5).state_dict())
    assert len(record) == 1
    with pytest.warns(UserWarning, match='from 5 to 7'):  # every load says it
        target.load_state_dict(build(5).state_dict())


def test_loading_with_mmengine():
    checkpoint = pytest.importorskip('mmengine.runner.checkpoint')
    source, target = Backbone(Layer((5, 5))), Backbone(Layer((7, 7)))
    with pytest.warns(UserWarning, match='from 5 to 7') as record:
        checkpoint.load_state_dict(target, source.state_dict(), strict=True)
    assert len(record) == 1
    assert_close(target[0].rel_h, resize_table(source[0].rel_h, 7), rtol=0, atol=0)


def test_copies_and_pickles_resize_too():
    source, target = Layer((5, 5)), Layer((3, 3))
    for twin in (copy.deepcopy(target), pickle.loads(pickle.dumps(target))):
        with pytest.warns(UserWarning, match='from 5 to 3'):
            twin.load_state_dict(source.state_dict())
        assert twin.rel_h.shape == (5, 3)
    assert target.rel_h.shape == (5, 3)


def test_what_is_no_such_table_is_reported_by_load_state_dict():
    for state in (Layer((7, 7), width=2).state_dict(), {'rel_h': torch.rand(4, 3)}):
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            with pytest.raises(RuntimeError, match=r'size mismatch for rel_h'):
                Layer((5, 5)).load_state_dict(state, strict=False)


def test_a_flat_table_is_refused():
    with pytest.raises(ValueError, match=r'rel is \(4, 7\) .* \(4, 17\) in the model'):
        Flat(17).load_state_dict(Flat(7).state_dict())
    Flat(17).load_state_dict(Flat(17).state_dict())
    Flat(17).load_state_dict({}, strict=False)
