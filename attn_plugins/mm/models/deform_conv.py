"""mmcv's deformable convolutions, for maps smaller than their kernel as well.

Imports ``mmcv.ops``, which registers DCN and DCNv2 and needs mmcv's operators.
"""

import torch.nn.functional as F
from mmcv import ops
from torch import Tensor, nn


class PadsSmallMaps:
    """A mixin: the operator refuses maps smaller than its kernel, so they are padded.

    More zeros at the far sides change no value that is kept.
    """

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[-2:]
        kernel_h, kernel_w = self.kernel_size
        missing_h, missing_w = max(kernel_h - H, 0), max(kernel_w - W, 0)
        if missing_h or missing_w:
            x = F.pad(x, (0, missing_w, 0, missing_h))
        return super().forward(x)[..., :H, :W]


class DeformConv2dPack(PadsSmallMaps, ops.DeformConv2dPack):
    """``DCN`` for maps of any size."""


class ModulatedDeformConv2dPack(PadsSmallMaps, ops.ModulatedDeformConv2dPack):
    """``DCNv2`` for maps of any size."""

    def init_offset(self) -> None:
        """Makes the offsets zero, as ``DCN`` does; LESA2d draws the weights."""
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)


FOR_ANY_MAP = {
    ops.DeformConv2dPack: DeformConv2dPack,
    ops.ModulatedDeformConv2dPack: ModulatedDeformConv2dPack,
}
