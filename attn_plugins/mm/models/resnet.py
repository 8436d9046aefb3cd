"""Attention in place of the 3x3 convolutions of a ResNet of mmdet, mmseg, mmpretrain.

Each framework has a ResNet of its own. It is built untouched, then `conv2` of the
blocks in the chosen stages is swapped: in a bottleneck that is the 3x3 convolution, in
a BasicBlock the second one, whose stride is always 1.
"""

import collections
import inspect
import logging
import math
from collections.abc import Collection, Iterator, Sequence

from mmengine.logging import print_log
from mmengine.model import PretrainedInit
from torch import Tensor, nn

from ...modules.checks import height_and_width
from ...modules.recompute import checkpoint_forward
from ...modules.tables import resize_tables_on_load
from ...spelling import closest
from .layers import norm_layer_of

STEM_STRIDE = 4  # of every framework's stem: a convolution and a pooling, 2 each


def check_stages(num_stages: int, **tuples: Sequence[bool]) -> None:
    """Raises ``ValueError`` unless each tuple has one entry per stage."""
    for name, stages in tuples.items():
        if not isinstance(stages, Sequence) or len(stages) != num_stages:
            raise ValueError(
                f'{name} must hold one bool for each of the num_stages={num_stages} '
                f'stages, got {stages!r}'
            )


def check_attn_options(
    layer: type, options: dict, reserved: Collection[str], name: str = 'attn'
) -> None:
    """Raises ``ValueError`` unless ``options`` are arguments of ``layer``.

    Args:
        layer: Class of the attention layer.
        options: What the config gives.
        reserved: Arguments that the backbone determines.
        name: The backbone's argument that holds the options.
    """
    known = set(inspect.signature(layer).parameters) - set(reserved)
    for option in options:
        if option not in known:
            raise ValueError(
                f'{name}={options!r} has the unknown option {option!r}'
                f'{closest(option, known)} '
                f'Options of {layer.__name__}: {", ".join(sorted(known))}'
            )


class Recomputed:
    """A mixin for a residual block: ``with_cp`` moves running statistics once."""

    def forward(self, x: Tensor) -> Tensor:
        if self.with_cp and x.requires_grad:
            return checkpoint_forward(self, self._stock_forward, x)
        return super().forward(x)

    def _stock_forward(self, x: Tensor) -> Tensor:
        self.with_cp = False  # the stock block's own checkpointing moves them twice
        try:
            return super().forward(x)
        finally:
            self.with_cp = True


def report_partial_load(
    backbone: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: object
) -> None:
    """Logs in one line which tensors of a checkpoint a backbone takes, unless all.

    A load pre-hook. A classifier's weights in a detector lack some tensors and have
    others of another shape; mmengine lists every one of them.
    """
    given = {k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix)}
    own = {k: v for k, v in backbone.state_dict().items() if 'num_batches' not in k}
    new = [
        name
        for name, tensor in own.items()
        if name not in given
        or (given[name].shape != tensor.shape and not name.endswith(('rel_h', 'rel_w')))
    ]
    unused = [name for name in given if name not in backbone.state_dict()]
    if not new and not unused:
        return
    message = f'{len(own) - len(new)} of the {len(own)} tensors of the backbone loaded'
    if len(new) == len(own):
        message += f': none of its keys fits ({", ".join(list(given)[:2])}, ...)'
        if any(name.startswith('backbone.') for name in given):
            message += (
                ". They are a whole model's: add prefix='backbone.' to "
                "init_cfg=dict(type='Pretrained', ...)"
            )
    else:
        message += f'; new: {_abridged(new)}; not used: {_abridged(unused)}'
    print_log(message, logger='current', level=logging.WARNING)


def _abridged(names: list[str]) -> str:
    """Lists tensors of blocks by their name inside the block, each once."""
    if not names:
        return 'none'
    counts = collections.Counter(
        name.split('.', 2)[2] if name.startswith('layer') else name for name in names
    )
    return ', '.join(
        name if count == 1 else f'{name} ({count} times)'
        for name, count in counts.items()
    )


class AttnStages:
    """What the attention backbones share: a mixin that stands before a ResNet.

    A subclass says which blocks keep their convolution, and makes the layers.
    """

    layer_type: type[nn.Module]
    recomputed_blocks: dict[type[nn.Module], type[nn.Module]]  # by stock block
    reserved_options = ('in_channels', 'rel_pos_size', 'stride', 'norm_layer')

    def __init__(
        self,
        depth: int,
        *,
        stage_with_attn: Sequence[bool],
        attn: dict | None,
        rel_pos_input_size: int | Sequence[int],
        **kwargs,
    ) -> None:
        if depth not in self.arch_settings:
            depths = ', '.join(map(str, self.arch_settings))
            raise ValueError(f'depth must be one of {depths}, got {depth!r}')
        check_stages(kwargs.get('num_stages', 4), stage_with_attn=stage_with_attn)
        self.attn = dict(attn or {})
        check_attn_options(self.layer_type, self.attn, self.reserved_options)
        self.rel_pos_input_size = height_and_width(
            rel_pos_input_size=rel_pos_input_size
        )
        self.stage_with_attn = tuple(stage_with_attn)
        super().__init__(depth, **kwargs)
        for stage, block, is_first, stride in self._chosen_blocks():
            if not self.keeps_conv(stage, is_first):
                self._swap(stage, block, stride)
        self._freeze_stages()
        # First, as it compares shapes before the tables are resized.
        self.register_load_state_dict_pre_hook(report_partial_load)
        resize_tables_on_load(self)

    def keeps_conv(self, stage: int, is_first: bool) -> bool:
        """Tells whether the (first) block of a chosen stage is left as it is."""
        return False

    def make_layer(self, stage: int, **options) -> nn.Module:
        """Makes the layer for a block of a stage."""
        return self.layer_type(**options)

    def make_res_layer(self, block: type[nn.Module], **kwargs) -> nn.Module:
        # Not in arch_settings: zero_init_residual goes by the class in there, which
        # must be the framework's own.
        if kwargs['with_cp'] and any(self.stage_with_attn):
            block = self.recomputed_blocks.get(block, block)
        return super().make_res_layer(block=block, **kwargs)

    def _chosen_blocks(self) -> Iterator[tuple[int, nn.Module, bool, int]]:
        """Yields stage, block, whether it is the first, stride of the map conv2 gets.

        The strides are read from the blocks, as they depend on the style.
        """
        stride = STEM_STRIDE
        for stage, name in enumerate(self.res_layers):
            for index, block in enumerate(getattr(self, name)):
                stride *= block.conv1.stride[0]
                after = stride * block.conv2.stride[0]
                if self.stage_with_attn[stage]:
                    yield stage, block, index == 0, stride
                stride = after

    def _swap(self, stage: int, block: nn.Module, stride: int) -> None:
        layer = self.make_layer(
            stage,
            in_channels=block.conv2.in_channels,
            rel_pos_size=tuple(math.ceil(s / stride) for s in self.rel_pos_input_size),
            stride=block.conv2.stride[0],
            norm_layer=norm_layer_of(self.norm_cfg),
            **self.attn,
        )
        block.conv2 = layer

    def attention_blocks(self) -> Iterator[nn.Module]:
        """Yields the blocks whose convolution was swapped, in order."""
        for name in self.res_layers:
            for block in getattr(self, name):
                if isinstance(block.conv2, self.layer_type):
                    yield block

    def init_weights(self) -> None:
        """Initialises as the stock ResNet; the layers keep their own initialisation."""
        again = self.is_init
        super().init_weights()
        if again or self._loads_weights():
            return
        for block in self.attention_blocks():
            # mmengine goes from module to module that has init_weights, and
            # mmpretrain's stages are plain nn.Sequential.
            if not block.is_init:
                block.conv2.init_weights()

    def _loads_weights(self) -> bool:
        configs = self.init_cfg if isinstance(self.init_cfg, list) else [self.init_cfg]
        return any(
            cfg and cfg['type'] in ('Pretrained', PretrainedInit) for cfg in configs
        )
