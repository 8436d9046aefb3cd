"""LESA-ResNet (LESA, Yang et al., arXiv 2107.05637, sections 3.2, 4)."""

import functools
from collections.abc import Sequence

from mmcv.cnn import build_conv_layer
from mmengine.model.weight_init import constant_init
from mmengine.registry import MODELS
from torch import nn

from ...modules.lesa import LESA2d
from ...registration import missing_modules
from .resnet import AttnStages, check_stages


def check_deformable(dcn: dict, depth: int) -> None:
    """Raises ``ValueError`` unless deformable convolutions can be built.

    Args:
        dcn: Their config.
        depth: Depth of the ResNet, whose blocks must be bottlenecks.
    """
    if depth < 50:
        raise ValueError(
            f'dcn={dcn!r} needs the bottlenecks of depth 50 or more, got depth={depth}'
        )
    if missing_modules('mmcv._ext'):
        raise ValueError(
            f'dcn={dcn!r} needs the operators of mmcv, and this mmcv has none: '
            '`python -m attn_plugins ops link` gives it those of attn_plugins'
        )
    import mmcv.ops  # noqa: F401 (registers DCN)


def deformable_conv(dcn: dict, *args, **kwargs) -> nn.Module:
    """Builds the deformable convolution of a local term.

    Args:
        dcn: Config as the framework's ResNet takes it.
        *args: Arguments of the convolution.
        **kwargs: Likewise.
    """
    from .deform_conv import FOR_ANY_MAP  # needs mmcv's operators

    options = {k: v for k, v in dcn.items() if k != 'fallback_on_stride'}
    with MODELS.switch_scope_and_registry(None) as registry:
        conv = registry.get(options['type'])
    options['type'] = FOR_ANY_MAP.get(conv, conv)
    return build_conv_layer(options, *args, **kwargs)


class LESAStages(AttnStages):
    """ResNet whose 3x3 convolutions in chosen stages are LESA.

    The block's second norm becomes the identity if the layer ends in its own norms,
    which only variant 'dynamic' does. Where the convolution has stride 2, the layer
    attends at the incoming size and is pooled after. The attention is global:
    dilation has no meaning for it and is ignored.

    Args:
        depth: 18, 34, 50, 101 or 152. In the BasicBlock of 18 and 34 the second
            convolution is replaced.
        wide: Whether the bottlenecks' kernel channels are doubled (WRN).
        stage_with_attn: The stages whose convolutions are replaced; None is the third
            and the fourth. With none of them the network is the stock ResNet, bit
            for bit.
        keep_first_conv: The stages among them whose first block keeps its
            convolution; None is the third, as in the paper.
        attn: Options of :class:`~attn_plugins.modules.LESA2d`.
        rel_pos_input_size: Image size in pixels that the position tables are laid out
            for, a number or height and width. Images of any size are fine.
        **kwargs: Arguments of the framework's ResNet. ``dcn`` with ``stage_with_dcn``
            makes the convolutions of these stages deformable, and the local term of
            the LESA layers there too. With ``with_cp`` a block's running statistics
            move once in a step, in the stock ResNet they move twice.

    Raises:
        ValueError: If the depth or an option of ``attn`` is unknown, a tuple has not
            one entry per stage, the heads do not divide the channels, or what ``wide``
            or ``dcn`` need is not there.
    """

    layer_type = LESA2d
    reserved_options = (*AttnStages.reserved_options, 'out_channels', 'local_conv')
    # Where the expansion is an attribute of the block's class, as in mmdet and mmseg.
    wide_bottleneck: type[nn.Module] | None = None

    def __init__(
        self,
        depth: int,
        *,
        wide: bool = False,
        stage_with_attn: Sequence[bool] | None = None,
        keep_first_conv: Sequence[bool] | None = None,
        attn: dict | None = None,
        rel_pos_input_size: int | Sequence[int] = 1024,
        **kwargs,
    ) -> None:
        num_stages = kwargs.get('num_stages', 4)
        if stage_with_attn is None:
            stage_with_attn = (False, False, True, True)[:num_stages]
        if keep_first_conv is None:
            keep_first_conv = (True, True, True, False)[:num_stages]
        check_stages(num_stages, keep_first_conv=keep_first_conv)
        if wide and depth in (18, 34):
            raise ValueError(
                'wide=True doubles the kernel channels of bottlenecks, which the '
                f'blocks of depth {depth} are not: use depth 50 or more'
            )
        if kwargs.get('dcn') is not None:
            check_deformable(kwargs['dcn'], depth)
            kwargs['dcn'] = dict(kwargs['dcn'])  # stock blocks pop a key of it
        self.wide = wide
        self.keep_first_conv = tuple(keep_first_conv)
        super().__init__(
            depth,
            stage_with_attn=stage_with_attn,
            attn=attn,
            rel_pos_input_size=rel_pos_input_size,
            **kwargs,
        )

    def make_res_layer(self, **kwargs) -> nn.Module:
        if self.wide:
            # conv1 and conv2 are twice as wide; the block's output stays as it is.
            if self.wide_bottleneck is None:
                kwargs['expansion'] //= 2
            else:
                kwargs['planes'] *= 2
                kwargs['block'] = self.wide_bottleneck
        return super().make_res_layer(**kwargs)

    def keeps_conv(self, stage: int, is_first: bool) -> bool:
        return is_first and self.keep_first_conv[stage]

    def make_layer(self, stage: int, **options) -> nn.Module:
        dcn = getattr(self, 'dcn', None)  # mmpretrain's has none
        if dcn is not None and self.stage_with_dcn[stage]:
            options['local_conv'] = functools.partial(deformable_conv, dcn)
        return super().make_layer(stage, **options)

    def _swap(self, stage: int, block: nn.Module, stride: int) -> None:
        super()._swap(stage, block, stride)
        if self.ends_in_norms:
            setattr(block, block.norm2_name, nn.Identity())

    def init_weights(self) -> None:
        """Initialises as the stock ResNet; ``zero_init_residual`` reaches LESA too.

        A BasicBlock whose last norm was `norm2` ends in the norms of its LESA layer.
        """
        again = self.is_init
        super().init_weights()
        if again or self._loads_weights() or not self.zero_init_residual:
            return
        for block in self.attention_blocks():
            # mmdet and mmseg do it through an init_cfg of the block, unless the
            # backbone was given one; mmpretrain does it in any case.
            zeroed = block.init_cfg or not block.is_init
            if self.ends_in_norms and not hasattr(block, 'norm3') and zeroed:
                constant_init(block.conv2.local.norm, 0)
                constant_init(block.conv2.context.out_norm, 0)

    @property
    def ends_in_norms(self) -> bool:
        """Whether the layers end in norms of their own."""
        return self.attn.get('variant', 'dynamic') == 'dynamic'
