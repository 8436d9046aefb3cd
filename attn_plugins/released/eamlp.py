"""Released EAMLP checkpoints, in the key names of our EAMLP and mmpretrain's head."""

import math
from collections.abc import Mapping

from torch import Tensor

from .layouts import Layout, Table, joined, same, under, weights

_DEPTHS = (7, 14, 19)
_STRIDE = 16  # of the token grid


def renamed(names: Mapping[str, str]) -> Table:
    """Weight and bias of layers that get another name."""
    return joined(
        under(f'{old}.', same('weight', 'bias'), f'{new}.')
        for old, new in names.items()
    )


_LAYER = renamed(
    {
        'norm1': 'ln1',
        'attn.linear_0': 'attn.key',
        'attn.linear_1': 'attn.value',
        'attn.proj': 'attn.out',
        'norm2': 'ln2',
        'mlp.fc1': 'ffn.layers.0.0',
        'mlp.fc2': 'ffn.layers.1',
    }
)
_BLOCK = {**_LAYER, **renamed({'attn.trans_dims': 'attn.query'})}
_TOKEN_LAYER = {**_LAYER, **renamed({'attn.q_linear': 'attn.query'})}
del _TOKEN_LAYER['attn.linear_0.bias']


def _table(depth: int) -> Table:
    tokens = {
        **under('attention1.', _TOKEN_LAYER),
        **under('attention2.', _TOKEN_LAYER),
        **weights('project'),
    }
    return {
        **under('', same('cls_token', 'pos_embed'), 'backbone.'),
        **under('tokens_to_token.', tokens, 'backbone.tokens_to_token.'),
        **joined(
            under(f'blocks.{index}.', _BLOCK, f'backbone.encoder.{index}.')
            for index in range(depth)
        ),
        **under('norm.', same('weight', 'bias'), 'backbone.norm.'),
        **under('head.', same('weight', 'bias'), 'head.layers.head.'),
    }


def _describe(state_dict: Mapping[str, Tensor], depth: int) -> dict:
    """What a config has to say, with the backbone's part of it as it stands there."""
    head_width = state_dict['blocks.0.attn.linear_0.weight'].shape[1]
    num_tokens = state_dict['pos_embed'].shape[1] - 1
    side = math.isqrt(num_tokens)
    if side * side != num_tokens:
        raise ValueError(
            f'pos_embed {tuple(state_dict["pos_embed"].shape)} is not for a square '
            f'image: it has {num_tokens} positions beside that of the class token'
        )
    # The released code adds 1e-9 to the L1 norms.
    backbone = dict(
        type='EAMLP',
        depth=depth,
        img_size=_STRIDE * side,
        attn=dict(
            num_heads=len(state_dict['blocks.0.attn.trans_dims.weight']) // head_width,
            num_slots=len(state_dict['blocks.0.attn.linear_0.weight']),
            eps=1e-9,
        ),
        token_attn=dict(eps=1e-9),
    )
    return dict(
        depth=depth,
        img_size=backbone['img_size'],
        num_classes=len(state_dict['head.weight']),
        backbone=backbone,
    )


def _usage(description: dict, path: str) -> str:
    depth, size = description['depth'], description['img_size']
    suffix = '_384' if (depth, size) == (7, 384) else ''
    lines = [
        f'python tools/test.py configs/eamlp{depth}_in1k{suffix}.py {path}',
        '--cfg-options model.backbone.attn.eps=1e-9',
        'model.backbone.token_attn.eps=1e-9',
    ]
    if size != 224 and not suffix:
        lines.append(f'model.backbone.img_size={size}')
    return ' \\\n    '.join(lines)


def _layout(depth: int) -> Layout:
    return Layout(
        f'EAMLP-{depth}, ImageNet',
        _table(depth),
        lambda state_dict: _describe(state_dict, depth),
        _usage,
    )


LAYOUTS = tuple(_layout(depth) for depth in _DEPTHS)
