"""Released LESA checkpoints, in the key names of our LESAResNet and of the mm hosts.

The released code has one class for ImageNet and another for detection. They differ in
the position tables and in the norms' widths, and detectors have deformable local terms.
"""

import re
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from .layouts import Entry, Layout, Table, joined, norm, same, stages, under, weights

Position = Literal['flat', '2d']

_BLOCKS = (3, 4, 6, 3)
_FIRST_ATTENTION = {3: 1, 4: 0}  # the first block that has it, by stage
_INDEX = 'follows from the map size, it is computed'


def lesa_layer(position: Position, dcn: bool) -> Table:
    """The keys of one layer.

    Args:
        position: 'flat' (ImageNet: one table over flattened positions, on q, k and v)
            or '2d' (detection: a table per axis, on q).
        dcn: Whether the convolution of the local term is deformable.
    """
    if position == 'flat':
        tables = {
            'relative': Entry('context.rel'),
            'flatten_index': Entry(None, why=_INDEX, optional=True),
        }
    else:
        tables = {
            'rel_height': Entry('context.rel_h'),
            'rel_width': Entry('context.rel_w'),
        }
    conv = {**same('weight'), **(weights('conv_offset') if dcn else {})}
    return {
        **tables,
        # From a 1-D convolution over flattened positions to a 1x1 convolution.
        'qkv_transform.weight': Entry('context.qkv.weight', lambda w: w.unsqueeze(-1)),
        **norm('bn_qkv', 'context.qkv_norm'),
        **norm('bn_similarity', 'context.similarity_norm'),
        **norm('bn_output', 'context.out_norm'),
        **under('x_transform.0.', conv, 'local.conv.'),
        'x_transform.1.weight': Entry('local.proj.weight'),
        **norm('bn_x', 'local.norm'),
        'reasoning.1.weight': Entry('gate.conv1.weight'),
        **norm('reasoning.2', 'gate.norm1'),
        'projection.0.weight': Entry('gate.conv2.weight'),
        **norm('projection.1', 'gate.norm2'),
    }


def _backbone(position: Position, dcn: bool) -> Table:
    """LESA-ResNet-50; its wide form has the same keys."""
    layer = under('conv2.', lesa_layer(position, dcn))

    def middle(stage: int, block: int) -> Table:
        if block >= _FIRST_ATTENTION.get(stage, block + 1):
            return layer  # it ends in its own norms: there is no bn2
        conv = {**same('conv2.weight'), **norm('bn2')}
        return {**conv, **weights('conv2.conv_offset')} if dcn and stage > 1 else conv

    return {**same('conv1.weight'), **norm('bn1'), **stages(_BLOCKS, middle)}


def _bbox_head(name: str) -> Table:
    layers = ('fc_cls', 'fc_reg', 'shared_fcs.0', 'shared_fcs.1')
    return weights(*(f'{name}.{layer}' for layer in layers))


def _mask_head(name: str) -> Table:
    convs = (f'{name}.convs.{index}.conv' for index in range(4))
    return weights(*convs, f'{name}.upsample', f'{name}.conv_logits')


# mmdet 2.11 and 3.3 call the parts of these detectors alike.
_FPN = weights(
    *(f'neck.{n}.{i}.conv' for n in ('lateral_convs', 'fpn_convs') for i in range(4)),
    *(f'rpn_head.{layer}' for layer in ('rpn_conv', 'rpn_cls', 'rpn_reg')),
)
_MASK_RCNN = {
    **_FPN,
    **_bbox_head('roi_head.bbox_head'),
    **_mask_head('roi_head.mask_head'),
}
_HTC = {
    **_FPN,
    **joined(_bbox_head(f'roi_head.bbox_head.{stage}') for stage in range(3)),
    **joined(_mask_head(f'roi_head.mask_head.{stage}') for stage in range(3)),
    # Each mask head but the first takes in the features of the one before.
    **weights(*(f'roi_head.mask_head.{stage}.conv_res.conv' for stage in (1, 2))),
}
_SEMANTIC = under(
    'roi_head.semantic_head.',
    weights(
        *(f'lateral_convs.{level}.conv' for level in range(5)),
        *(f'convs.{index}.conv' for index in range(4)),
        'conv_embedding.conv',
        'conv_logits',
    ),
)


def _rel_pos_input_size(
    state_dict: Mapping[str, Tensor], position: Position, strides: tuple[int, ...]
) -> int:
    """The image side, in pixels, that all tables were laid out for.

    A layer for maps of R x R has tables of 2 R - 1 offsets, over flattened positions of
    2 R^2 - 1; an image side of ``s`` pixels gives ``R = ceil(s / stride)``.

    Args:
        state_dict: Keys of the backbone, without a prefix.
        position: The form of the tables.
        strides: Stride of each stage over the one before.

    Raises:
        ValueError: If no side gives all tables their lengths.
    """
    found = {}  # R and the stride of the map that comes in, by key
    for key, table in state_dict.items():
        name = re.match(
            r'layer(\d)\.(\d)\.conv2\.(relative|rel_height|rel_width)$', key
        )
        if not name:
            continue
        stage, block = int(name[1]), int(name[2])
        stride = 4
        for s in strides[: stage if block else stage - 1]:
            stride *= s
        if position == 'flat':
            side = ((table.shape[-1] + 1) / 2) ** 0.5
        else:
            side = (len(table) + 1) / 2
        found[key] = side, stride
    size = min(side * stride for side, stride in found.values())
    for key, (side, stride) in found.items():
        if side != -(-size // stride):
            raise ValueError(
                'the position tables do not belong to one square input: '
                f'{key} {tuple(state_dict[key].shape)} is for maps of {side:g} at '
                f'stride {stride}, another table for images of {size:g} pixels'
            )
    return int(size)


def _describe(
    state_dict: Mapping[str, Tensor], prefix: str, position: Position, dcn: bool
) -> dict:
    backbone = {
        key.removeprefix(prefix): tensor
        for key, tensor in state_dict.items()
        if key.startswith(prefix)
    }
    strides = (1, 2, 2, 1) if position == 'flat' else (1, 2, 2, 2)
    # Content and position each have a norm channel per head; flat ones on q and on k.
    terms = 3 if position == 'flat' else 2
    config = dict(
        type='LESAResNet',
        depth=50,
        wide=backbone['layer1.0.conv1.weight'].shape[0] == 128,
        strides=strides,
        attn=dict(
            position=position,
            num_heads=len(backbone['layer4.0.conv2.bn_similarity.weight']) // terms,
        ),
        rel_pos_input_size=_rel_pos_input_size(backbone, position, strides),
    )
    if dcn:
        config.update(
            dcn=dict(type='DCN', deform_groups=1, fallback_on_stride=False),
            stage_with_dcn=(False, True, True, True),
        )
    return dict(
        depth=50,
        wide=config['wide'],
        dcn=dcn,
        position=position,
        rel_pos_input_size=config['rel_pos_input_size'],
        backbone=config,
    )


def _usage(description: dict, path: str) -> str:
    """The backbone as it stands in a config."""
    init_cfg = dict(type='Pretrained', checkpoint=path, prefix='backbone.')
    options = {**description['backbone'], 'init_cfg': init_cfg}
    return '\n'.join(
        (
            f'# All that the file holds: load_from={path!r}. Its backbone alone:',
            'backbone=dict(',
            *(f'    {key}={_config_text(value)},' for key, value in options.items()),
            ')',
        )
    )


def _config_text(value: object) -> str:
    """Writes a value as configs do, ``dict(key=value)``."""
    if not isinstance(value, dict):
        return repr(value)
    items = (f'{key}={_config_text(item)}' for key, item in value.items())
    return f'dict({", ".join(items)})'


def _layout(
    name: str, position: Position, dcn: bool = False, heads: Table | None = None
) -> Layout:
    """A bare backbone's layout or, with ``heads``, a detector's."""
    backbone = _backbone(position, dcn)
    prefix = '' if heads is None else 'backbone.'
    return Layout(
        name + (', deformable' if dcn else ''),
        {**under(prefix, backbone, 'backbone.'), **(heads or {})},
        lambda state_dict: _describe(state_dict, prefix, position, dcn),
        _usage,
    )


_CLASSIFIER = _layout('LESA-50 classifier', 'flat')
_FC = {
    f'fc.{leaf}': Entry(f'head.fc.{leaf}', optional=True) for leaf in ('weight', 'bias')
}

LAYOUTS = (
    _CLASSIFIER._replace(table={**_CLASSIFIER.table, **_FC}),
    *(
        _layout(name, '2d', dcn, heads)
        for name, heads in (
            ('LESA-50 backbone of a detector', None),
            ('Mask R-CNN with LESA-50', _MASK_RCNN),
            ('HTC with LESA-50', {**_HTC, **_SEMANTIC}),
            ('HTC without semantic branch, with LESA-50', _HTC),
        )
        for dcn in (False, True)
    ),
)
