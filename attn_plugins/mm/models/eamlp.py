"""EAMLP, and the T2T-ViTs that it is compared with, for mmpretrain.

Source: Guo et al., arXiv 2105.02358, section 4.3 and Table II; the released layouts
settle biases, the number of slots and the position table.

It is mmpretrain's T2T-ViT, built untouched, with its attention swapped. One fault is
fixed where self-attention stays: mmpretrain 1.2.0, asked for T2T-ViT's scale, divides
the logits by it instead of multiplying, 64 times too much at 64 channels per head.
"""

import functools
import math
from collections.abc import Sequence

import torch.nn.functional as F
from mmpretrain.models.backbones.t2t_vit import (
    T2T_ViT,
    T2TModule,
    T2TTransformerLayer,
    get_sinusoid_encoding,
)
from mmpretrain.models.utils import LayerNorm2d, build_norm_layer
from mmpretrain.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from ... import modules
from ...functional.checks import check_choice
from ...modules.checks import check_divides, check_positive, height_and_width
from .resnet import check_attn_options


class DropPathMixin:
    """Ends a layer in ``drop_path``, the stochastic depth of its block."""

    drop_path: nn.Module  # whoever builds the block sets it

    def forward(self, x: Tensor) -> Tensor:
        return self.drop_path(super().forward(x))


class BlockMEA(DropPathMixin, modules.MultiHeadExternalAttention):
    """Multi-head external attention of a block."""


class BlockMLP(DropPathMixin, modules.TokenMLP):
    """The MLP in place of a block's attention."""


# By number of blocks: channels, heads of self-attention, width of the MLPs over C.
ARCHITECTURES = {7: (256, 4, 2), 14: (384, 6, 3), 19: (448, 7, 3)}

TOKEN_TYPES = {
    'ea': modules.TokenExternalAttention,
    'performer': modules.TokenPerformer,
    'mlp': modules.TokenMLP,
    'transformer': None,
}
ATTN_TYPES = {
    'mea': BlockMEA,
    'ea': BlockMEA,
    'mlp': BlockMLP,
    'transformer': None,
}
EA_SLOTS = 256  # of one head; h heads have an h-th of them (section 3.3)
HEAD_FACTOR = 4  # EAMLP's heads for each head of the T2T-ViT of its depth

# Options of a block that say something about self-attention alone.
_SELF_ATTENTION_OPTIONS = ('attn_drop_rate', 'qkv_bias', 'qk_scale')
_SPLITS = ('soft_split0', 'soft_split1', 'soft_split2')
# Norms of maps (B, C, H, W): of tokens (B, N, C) they fail, or take N for channels.
_MAP_NORMS = (
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.GroupNorm,
    LayerNorm2d,
    _InstanceNorm,
)
STOCK_DEPTHS = (*ARCHITECTURES, 24)  # of mmpretrain's configs, and 7
MIN_SIZE = 3  # pixels that a 7x7 window with padding 2 needs


@MODELS.register_module()
class EAMLP(T2T_ViT):
    """T2T-ViT whose attention is external, in the token stage, the blocks or both.

    A stock backbone of mmpretrain: arguments and outputs are those of its ``T2T_ViT``.

    Args:
        depth: 7, 14 or 19: number of blocks, and the sizes of Table II that go with it.
        token_type: Attention of the tokens-to-token stage: 'ea' (128 slots),
            'performer', 'transformer' (self-attention) or 'mlp' (none).
        token_attn: Options of the layer that does it,
            :class:`~attn_plugins.modules.TokenExternalAttention`,
            :class:`~attn_plugins.modules.TokenPerformer` or
            :class:`~attn_plugins.modules.TokenMLP`.
        attn_type: Attention of the blocks. 'mea' is multi-head external attention with
            four times the heads of the T2T-ViT of that depth, each as wide as there,
            and 64 slots; 'ea' external attention in one head with 256 slots;
            'transformer' self-attention; 'mlp' none.
        attn: Options of the layer that does it,
            :class:`~attn_plugins.modules.MultiHeadExternalAttention` or
            :class:`~attn_plugins.modules.TokenMLP`.
        mlp_norm_cfg: Norm before the blocks' MLPs; None is the same as everywhere.
            EAMLP-BN has ``dict(type='BN1d')``.
        img_size: Image size in pixels that the position table is laid out for, a number
            or height and width. The table is the fixed sinusoid of the tokens of such
            an image, the class token first; for images of another size it is resized to
            their grid of tokens. Images of any size of 3 x 3 or more are fine.
        in_channels: Channels of the images.
        embed_dims: Channels C of the tokens; None goes by depth.
        num_layers: Number of blocks; None is ``depth``. Other numbers are for reduced
            models: that of another depth is refused.
        layer_cfgs: Options of all blocks, or of each; ``num_heads`` (of self-attention)
            and ``feedforward_channels`` go by depth.
        out_indices: Blocks whose output is returned.
        **kwargs: Further arguments of mmpretrain's ``T2T_ViT``: ``drop_rate``,
            ``drop_path_rate``, ``norm_cfg``, ``final_norm``, ``out_type``,
            ``with_cls_token``, ``interpolate_mode``, ``t2t_cfg``, ``init_cfg``.

    Raises:
        ValueError: If depth, a type or an option is unknown, a size is not positive,
            ``num_layers`` contradicts ``depth``, ``mlp_norm_cfg`` is a norm of maps,
            the heads do not divide the channels, or the images do not fit.
    """

    def __init__(
        self,
        depth: int = 7,
        *,
        token_type: str = 'ea',
        token_attn: dict | None = None,
        attn_type: str = 'mea',
        attn: dict | None = None,
        mlp_norm_cfg: dict | None = None,
        img_size: int | Sequence[int] = 224,
        in_channels: int = 3,
        embed_dims: int | None = None,
        num_layers: int | None = None,
        layer_cfgs: dict | Sequence[dict] | None = None,
        out_indices: int | Sequence[int] = -1,
        **kwargs,
    ) -> None:
        check_choice('depth', depth, tuple(ARCHITECTURES))
        check_choice('token_type', token_type, tuple(TOKEN_TYPES))
        check_choice('attn_type', attn_type, tuple(ATTN_TYPES))
        channels, num_heads, mlp_ratio = ARCHITECTURES[depth]
        embed_dims = channels if embed_dims is None else embed_dims
        num_layers = depth if num_layers is None else num_layers
        if num_layers != depth and num_layers in STOCK_DEPTHS:
            # A config of depth 7 over T2T-ViT-14's keeps the sizes of the latter.
            raise ValueError(
                f'num_layers={num_layers} is that of another network than '
                f'depth={depth}: give no num_layers, embed_dims and layer_cfgs; where '
                "they are the base config's, say backbone=dict(_delete_=True, ...)"
            )
        check_positive(
            in_channels=in_channels, embed_dims=embed_dims, num_layers=num_layers
        )
        sizes = dict(num_heads=num_heads, feedforward_channels=mlp_ratio * embed_dims)
        super().__init__(
            img_size=16,  # one token: the table is made below
            in_channels=in_channels,
            embed_dims=embed_dims,
            num_layers=num_layers,
            layer_cfgs=_layer_cfgs(layer_cfgs, sizes, attn_type, num_layers),
            out_indices=(
                out_indices if isinstance(out_indices, int) else list(out_indices)
            ),
            **kwargs,
        )
        self.in_channels = in_channels
        self._swap_token_attention(token_type, dict(token_attn or {}))
        for layer in self.encoder:
            self._swap_attention(layer, attn_type, dict(attn or {}))
            if mlp_norm_cfg is not None:
                layer.ln2 = _token_norm(mlp_norm_cfg, embed_dims)
        size = height_and_width(img_size=img_size)
        if min(size) < MIN_SIZE:
            raise ValueError(
                f'img_size must be {MIN_SIZE} x {MIN_SIZE} pixels or more, '
                f'got {img_size!r}'
            )
        self.patch_resolution = token_grid(self.tokens_to_token, size)
        self.tokens_to_token.init_out_size = self.patch_resolution
        height, width = self.patch_resolution
        table = get_sinusoid_encoding(
            height * width + self.num_extra_tokens, embed_dims
        )
        # Not a buffer: Table II counts it among the parameters.
        del self.pos_embed
        self.pos_embed = nn.Parameter(table, requires_grad=False)

    def _swap_token_attention(self, token_type: str, options: dict) -> None:
        layer_type = TOKEN_TYPES[token_type]
        _check_options('token_attn', token_type, layer_type, options, 'out_channels')
        for stage in (self.tokens_to_token.attention1, self.tokens_to_token.attention2):
            attn = stage.attn
            if layer_type is None:
                # T2T-ViT's scale, of the incoming tokens.
                _fix_scale(attn, attn.input_dims**-0.5)
            else:
                stage.attn = layer_type(attn.input_dims, attn.embed_dims, **options)

    def _swap_attention(
        self, layer: T2TTransformerLayer, attn_type: str, options: dict
    ) -> None:
        layer_type = ATTN_TYPES[attn_type]
        _check_options('attn', attn_type, layer_type, options)
        channels, heads = layer.attn.embed_dims, layer.attn.num_heads
        check_divides(num_heads=heads, embed_dims=channels)
        if layer_type is None:
            _fix_scale(layer.attn, (channels // heads) ** -0.5)
            return
        if attn_type == 'mlp':
            options = {'out_channels': channels, **options}
        elif attn_type == 'ea':
            options = {'num_heads': 1, 'num_slots': EA_SLOTS, **options}
        else:
            # Heads are as wide as those of self-attention, however many.
            num_heads = options.get('num_heads', HEAD_FACTOR * heads)
            options = {
                'num_heads': num_heads,
                'num_slots': EA_SLOTS // HEAD_FACTOR,
                'mid_channels': num_heads * (channels // heads),
                **options,
            }
        attn = layer_type(channels, **options)
        attn.drop_path = layer.attn.out_drop
        layer.attn = attn

    def init_weights(self) -> None:
        """Initialises as the stock backbone, which fails without a class token."""
        if self.cls_token is None:
            super(T2T_ViT, self).init_weights()
        else:
            super().init_weights()

    def _prepare_pos_embed(self, state_dict: dict, prefix: str, *args) -> None:
        """Resizes a table of another square image when it is loaded, as stock."""
        table = state_dict.get(f'{prefix}pos_embed')
        num_tokens = 0 if table is None else table.shape[1] - self.num_extra_tokens
        if num_tokens > 0 and math.isqrt(num_tokens) ** 2 == num_tokens:
            super()._prepare_pos_embed(state_dict, prefix, *args)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Returns the chosen blocks' outputs for images ``(B, C, H, W)``."""
        if x.ndim != 4 or x.shape[1] != self.in_channels or min(x.shape[2:]) < MIN_SIZE:
            raise ValueError(
                f'EAMLP(in_channels={self.in_channels}) expects images '
                f'(B, {self.in_channels}, H, W) of {MIN_SIZE} x {MIN_SIZE} pixels or '
                f'more, got {tuple(x.shape)}'
            )
        return super().forward(x)


def token_grid(tokens_to_token: T2TModule, size: tuple[int, int]) -> tuple[int, int]:
    """Returns rows and columns of the tokens of an image.

    Args:
        tokens_to_token: The stage that makes them.
        size: Height and width of the image in pixels.
    """
    for name in _SPLITS:
        size = T2TModule._get_unfold_size(getattr(tokens_to_token, name), size)
    return size


def _fix_scale(attn: nn.Module, scale: float) -> None:
    """Makes mmpretrain's self-attention multiply the logits by ``scale``."""
    attn.scaled_dot_product_attention = functools.partial(
        F.scaled_dot_product_attention, scale=scale
    )


def _token_norm(norm_cfg: dict, channels: int) -> nn.Module:
    norm = build_norm_layer(norm_cfg, channels)
    if isinstance(norm, _MAP_NORMS):
        raise ValueError(
            f'mlp_norm_cfg={norm_cfg!r} is {type(norm).__name__}, which cannot '
            "normalise tokens (B, N, C): use dict(type='BN1d'), 'SyncBN' or 'LN'"
        )
    return modules.TokenBatchNorm(norm) if isinstance(norm, _BatchNorm) else norm


def _layer_cfgs(
    layer_cfgs: dict | Sequence[dict] | None,
    sizes: dict,
    attn_type: str,
    num_layers: int,
) -> list[dict]:
    """Options of each block: what is given, over what goes by depth."""
    if layer_cfgs is None or isinstance(layer_cfgs, dict):
        layer_cfgs = [layer_cfgs or {}] * num_layers
    if len(layer_cfgs) != num_layers:
        raise ValueError(
            f'layer_cfgs must be one dict, or {num_layers} of them, one for each '
            f'block, got {len(layer_cfgs)}'
        )
    for options in layer_cfgs:
        for name in _SELF_ATTENTION_OPTIONS:
            if name in options and attn_type != 'transformer':
                raise ValueError(
                    f'layer_cfgs has {name}={options[name]!r}, which only '
                    f"attn_type='transformer' has, and attn_type is {attn_type!r}"
                )
    return [{**sizes, **options} for options in layer_cfgs]


def _check_options(
    name: str,
    kind: str,
    layer_type: type[nn.Module] | None,
    options: dict,
    *more_reserved: str,
) -> None:
    if layer_type is not None:
        check_attn_options(layer_type, options, ('in_channels', *more_reserved), name)
    elif options:
        raise ValueError(
            f'{name}={options!r} are options of a layer that takes the place of '
            f'self-attention, and with type {kind!r} it stays: see layer_cfgs'
        )
