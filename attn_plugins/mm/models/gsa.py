"""GSA-ResNet (GSA, Shen et al., arXiv 2010.03019, section 4)."""

from collections.abc import Sequence

from torch import nn

from ...modules.gsa import GlobalSelfAttention
from .resnet import AttnStages


class GSAStages(AttnStages):
    """ResNet whose 3x3 convolutions in chosen stages are global self-attention.

    Each layer keeps the norm after it. Where the convolution has stride 2, the layer
    attends at the incoming size and is pooled after. The attention is global: dilation
    has no meaning for it and is ignored.

    Args:
        depth: 18, 34, 38, 50 or 101. 38 has 2, 3, 5 and 2 bottlenecks. In the
            BasicBlock of 18 and 34 the second convolution is replaced.
        stage_with_attn: The stages whose convolutions are replaced; None is all. With
            none of them the network is the stock ResNet, bit for bit.
        attn: Options of :class:`~attn_plugins.modules.GlobalSelfAttention`.
        rel_pos_input_size: Image size in pixels that the position tables are laid out
            for, a number or height and width. Images of any size are fine.
        **kwargs: Arguments of the framework's ResNet. With ``with_cp`` running
            statistics move once in a step; in the stock ResNet they move twice.

    Raises:
        ValueError: If the depth or an option of ``attn`` is unknown, a tuple has not
            one entry per stage, or the heads do not divide the channels.
    """

    layer_type = GlobalSelfAttention

    def __init__(
        self,
        depth: int,
        *,
        stage_with_attn: Sequence[bool] | None = None,
        attn: dict | None = None,
        rel_pos_input_size: int | Sequence[int] = 224,
        **kwargs,
    ) -> None:
        if stage_with_attn is None:
            stage_with_attn = (True,) * kwargs.get('num_stages', 4)
        super().__init__(
            depth,
            stage_with_attn=stage_with_attn,
            attn=attn,
            rel_pos_input_size=rel_pos_input_size,
            **kwargs,
        )


def depths_of_gsa(resnet: type[nn.Module]) -> dict[int, tuple]:
    """Returns the paper's depths, as the ``arch_settings`` of a framework's ResNet."""
    stock = resnet.arch_settings
    return {
        18: stock[18],
        34: stock[34],
        38: (stock[50][0], (2, 3, 5, 2)),
        50: stock[50],
        101: stock[101],
    }
