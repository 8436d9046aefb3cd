"""GSA-ResNet for the hosts (GSA, Shen et al., arXiv 2010.03019, section 4)."""

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
            none of them the network is the host's own, bit for bit.
        attn: Options of :class:`~attn_plugins.modules.GlobalSelfAttention`.
        rel_pos_input_size: Image size in pixels that the position tables are laid out
            for, a number or height and width. Images of any size are fine.
        **kwargs: Arguments of the host's ResNet. With ``with_cp`` a block's running
            statistics move once in a step, in the stock ResNet they move twice.

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


def make_gsa_resnet(base: type[nn.Module], module: str) -> type[nn.Module]:
    """Makes the ``GSAResNet`` of a host.

    Args:
        base: The host's ResNet.
        module: Name of the Python module that the class is going to live in.
    """
    bottleneck = base.arch_settings[50][0]
    depths = {depth: base.arch_settings[depth] for depth in (18, 34, 50, 101)}
    depths[38] = (bottleneck, (2, 3, 5, 2))
    members = dict(
        __module__=module,
        __doc__=GSAStages.__doc__,
        arch_settings=dict(sorted(depths.items())),
    )
    return type('GSAResNet', (GSAStages, base), members)
