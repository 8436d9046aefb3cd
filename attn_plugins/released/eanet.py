"""Released EANet checkpoints, in the key names of mmseg's ResNetV1c and our head."""

from collections.abc import Mapping

from torch import Tensor

from .layouts import Entry, Layout, Table, norm, same, stages, under

_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def _matrix(weight: Tensor) -> Tensor:
    """The matrix of a linear layer, from a convolution that looks at one pixel."""
    return weight.flatten(1)


def _table(depth: int) -> Table:
    """The released backbone is one Sequential: stem, norm, ReLU, pooling, stages."""
    stem = {**same('0.weight', '3.weight', '6.weight'), **norm('1'), **norm('4')}
    conv_and_norm = {**same('conv.weight'), **norm('bn')}
    attention = {
        'conv1.weight': Entry('query.weight', _matrix),
        'conv1.bias': Entry('query.bias'),
        'linear_0.weight': Entry('key.weight', _matrix),
        'linear_1.weight': Entry('value.weight', _matrix),
        'conv2.0.weight': Entry('out.weight', _matrix),
        **norm('conv2.1', 'norm'),
    }
    resnet = stages(
        _BLOCKS[depth],
        lambda stage, block: {**same('conv2.weight'), **norm('bn2')},
        names=[f'extractor.{index}' for index in range(4, 8)],
    )
    return {
        **under('extractor.0.', stem, 'backbone.stem.'),
        **norm('extractor.1', 'backbone.stem.7'),
        **under('', resnet, 'backbone.'),
        **under('fc0.', conv_and_norm, 'decode_head.conv_in.'),
        **under('linu.', attention, 'decode_head.attn.'),
        **under('fc1.0.', conv_and_norm, 'decode_head.conv_out.'),
        **under('fc2.', same('weight', 'bias'), 'decode_head.conv_seg.'),
    }


def _layout(depth: int) -> Layout:
    def describe(state_dict: Mapping[str, Tensor]) -> dict:
        return dict(
            depth=depth,
            num_slots=len(state_dict['linu.linear_0.weight']),
            num_classes=len(state_dict['fc2.weight']),
        )

    def usage(description: dict, path: str) -> str:
        # The released code adds 1e-9 to the L1 norm, and has no auxiliary head.
        return (
            f'python tools/test.py configs/eanet_r{depth}_voc.py {path} \\\n'
            '    --cfg-options model.decode_head.attn.type=ExternalAttention2d \\\n'
            '    model.decode_head.attn.eps=1e-9 model.auxiliary_head=None'
        )

    return Layout(f'EANet, ResNet-{depth}, Pascal VOC', _table(depth), describe, usage)


LAYOUTS = tuple(_layout(depth) for depth in _BLOCKS)
