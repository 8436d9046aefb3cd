"""EANet, LESA-ResNet and GSA-ResNet for mmsegmentation."""

from mmcv.cnn import ConvModule
from mmseg.models.backbones.resnet import BasicBlock, Bottleneck, ResNet
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor, nn

from ...modules import ExternalAttention2d
from .gsa import GSAStages, depths_of_gsa
from .lesa import LESAStages
from .resnet import Recomputed

REGISTERED = ('EAHead', 'GSAResNet', 'LESAResNet')


class RecomputedBasicBlock(Recomputed, BasicBlock):
    """mmseg's BasicBlock; ``with_cp`` moves its running statistics once."""


class RecomputedBottleneck(Recomputed, Bottleneck):
    """mmseg's Bottleneck; ``with_cp`` moves its running statistics once."""


class WideBottleneck(RecomputedBottleneck):
    """A bottleneck of a Wide ResNet: its 3x3 has half of the output's channels."""

    expansion = 2


RECOMPUTED = {BasicBlock: RecomputedBasicBlock, Bottleneck: RecomputedBottleneck}


@MODELS.register_module()
class LESAResNet(LESAStages, ResNet):
    __doc__ = LESAStages.__doc__
    recomputed_blocks = RECOMPUTED
    wide_bottleneck = WideBottleneck


@MODELS.register_module()
class GSAResNet(GSAStages, ResNet):
    __doc__ = GSAStages.__doc__
    recomputed_blocks = RECOMPUTED
    arch_settings = depths_of_gsa(ResNet)


@MODELS.register_module()
class EAHead(BaseDecodeHead):
    """EANet's decode head (EA, arXiv 2105.02358, Fig. 3).

    3x3 conv-BN-ReLU to ``attn_channels``, attention, 3x3 conv-BN-ReLU to ``channels``,
    channel dropout, 1x1 classifier.

    Args:
        attn_channels: Channels of the map that attention works on.
        attn: Config of the attention layer. It is built with ``in_channels`` and the
            head's ``norm_cfg``, and keeps the map's shape. External attention works in
            place in inference, unless this says ``inplace=False`` or a subclass has a
            ``forward`` of its own. None leaves attention out: the row "FCN" of the
            paper's Table I.
        channels: Channels that the classifier sees.
        **kwargs: Arguments of mmseg's ``BaseDecodeHead``.
    """

    def __init__(
        self,
        *,
        attn_channels: int = 512,
        attn: dict | None = dict(type='ExternalAttention2d', num_slots=64),  # noqa: B006
        channels: int = 256,
        **kwargs,
    ) -> None:
        if kwargs.get('input_transform') == 'multiple_select':
            raise ValueError(
                'EAHead attends to one map: input_transform must be None or '
                "'resize_concat', got 'multiple_select'"
            )
        super().__init__(channels=channels, **kwargs)
        conv = dict(
            kernel_size=3,
            padding=1,
            conv_cfg=self.conv_cfg,
            norm_cfg=self.norm_cfg,
            act_cfg=self.act_cfg,
        )
        self.conv_in = ConvModule(self.in_channels, attn_channels, **conv)
        self.attn = nn.Identity()
        if attn is not None:
            self.attn = MODELS.build(
                {'in_channels': attn_channels, 'norm_cfg': self.norm_cfg, **attn}
            )
            # In these two nothing else reads the map of conv_in.
            if (
                type(self).forward is EAHead.forward
                and type(self.attn).forward is ExternalAttention2d.forward
            ):
                self.attn.inplace = attn.get('inplace', True)
        self.conv_out = ConvModule(attn_channels, channels, **conv)

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Returns logits ``(B, num_classes, H, W)`` at the size of the chosen map."""
        x = self.conv_in(self._transform_inputs(inputs))
        return self.cls_seg(self.conv_out(self.attn(x)))
