"""Registers the layers and necks that need no framework in mmengine's root registry.

Every framework looks a name up there after its own registry, so one registration
serves all. Each class is the layer of that name in ``attn_plugins.modules``, whose
norm can be given by a config as well.
"""

from collections.abc import Callable, Sequence

from mmengine.registry import MODELS
from torch import nn

from ... import modules

NormLayer = Callable[[int], nn.Module]

REGISTERED = (
    'EANeck',
    'ExternalAttention2d',
    'GlobalSelfAttention',
    'LESA2d',
    'MultiHeadExternalAttention',
    'SelfAttention2d',
)

MODELS.register_module(module=modules.MultiHeadExternalAttention)


def norm_layer_of(
    norm_cfg: dict | None, default: NormLayer = nn.BatchNorm2d
) -> NormLayer:
    """Returns what makes the norm of a config from a channel count.

    Args:
        norm_cfg: Config as mmcv's ``build_norm_layer`` takes it, or None.
        default: What to return without a config.
    """
    if norm_cfg is None:
        return default
    # Not above: without mmcv the layers work with their default norm.
    from mmcv.cnn import build_norm_layer

    return lambda num_features: build_norm_layer(norm_cfg, num_features)[1]


@MODELS.register_module()
class ExternalAttention2d(modules.ExternalAttention2d):
    """EANet's attention block, :class:`attn_plugins.modules.ExternalAttention2d`.

    Args:
        norm_cfg: Config of the norm, instead of ``norm_layer``.
    """

    def __init__(
        self,
        in_channels: int,
        num_slots: int = 64,
        *,
        mid_channels: int | None = None,
        normalization: str = 'double',
        eps: float = 0.0,
        tied: bool = False,
        order: str = 'auto',
        norm_layer: NormLayer = nn.BatchNorm2d,
        norm_cfg: dict | None = None,
        inplace: bool = False,
    ) -> None:
        super().__init__(
            in_channels,
            num_slots,
            mid_channels=mid_channels,
            normalization=normalization,
            eps=eps,
            tied=tied,
            order=order,
            norm_layer=norm_layer_of(norm_cfg, norm_layer),
            inplace=inplace,
        )


@MODELS.register_module()
class EANeck(modules.EANeck):
    """External attention at the end of stages, :class:`attn_plugins.modules.EANeck`.

    Args:
        norm_cfg: Config of the norms, instead of ``norm_layer``.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        stages: Sequence[int] = (-1,),
        num_slots: int = 64,
        *,
        norm_cfg: dict | None = None,
        **layer_options,
    ) -> None:
        if norm_cfg is not None:
            layer_options['norm_layer'] = norm_layer_of(norm_cfg)
        super().__init__(in_channels, stages, num_slots, **layer_options)


@MODELS.register_module()
class LESA2d(modules.LESA2d):
    """Locally enhanced self-attention, :class:`attn_plugins.modules.LESA2d`.

    Args:
        norm_cfg: Config of the batch norms, instead of ``norm_layer``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        *,
        num_heads: int = 8,
        rel_pos_size: int | Sequence[int],
        stride: int = 1,
        variant: str = 'dynamic',
        position: str = '2d',
        local_conv: Callable[..., nn.Module] | None = None,
        norm_layer: NormLayer = nn.BatchNorm2d,
        norm_cfg: dict | None = None,
        with_cp: bool = False,
        impl: str = 'auto',
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            num_heads=num_heads,
            rel_pos_size=rel_pos_size,
            stride=stride,
            variant=variant,
            position=position,
            local_conv=local_conv,
            norm_layer=norm_layer_of(norm_cfg, norm_layer),
            with_cp=with_cp,
            impl=impl,
        )


@MODELS.register_module()
class GlobalSelfAttention(modules.GlobalSelfAttention):
    """GSA, :class:`attn_plugins.modules.GlobalSelfAttention`.

    Args:
        norm_cfg: Config of the norm, instead of ``norm_layer``.
    """

    def __init__(
        self,
        in_channels: int,
        num_heads: int = 8,
        *,
        rel_pos_size: int | Sequence[int],
        content: bool = True,
        columns: bool = True,
        rows: bool = True,
        axial_content: bool = False,
        max_shift: int | None = None,
        stride: int = 1,
        norm_layer: NormLayer = nn.BatchNorm2d,
        norm_cfg: dict | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            num_heads,
            rel_pos_size=rel_pos_size,
            content=content,
            columns=columns,
            rows=rows,
            axial_content=axial_content,
            max_shift=max_shift,
            stride=stride,
            norm_layer=norm_layer_of(norm_cfg, norm_layer),
        )


@MODELS.register_module()
class SelfAttention2d(modules.SelfAttention2d):
    """Self-attention for maps, :class:`attn_plugins.modules.SelfAttention2d`.

    Args:
        norm_cfg: Config of the norm, instead of ``norm_layer``.
    """

    def __init__(
        self,
        in_channels: int,
        num_heads: int = 1,
        *,
        normalization: str = 'softmax',
        norm_layer: NormLayer = nn.BatchNorm2d,
        norm_cfg: dict | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            num_heads,
            normalization=normalization,
            norm_layer=norm_layer_of(norm_cfg, norm_layer),
        )
