"""Parameters and multiply-accumulates of attention blocks, and of whole models.

    python tools/complexity.py                          # EA paper, Table XII
    python tools/complexity.py --shape 1 512 64 64      # another map
    python tools/complexity.py --models                 # EA configs, their stock bases

Counted by torch's own flop counter (products and convolutions; a multiply-accumulate is
half of what it calls a flop) on fake tensors, so that nothing is computed. Deformable
convolutions count as plain ones, without what interpolates between pixels. Table XII's
parameters leave out those of norms.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
from benchmarks.tables import markdown
from mmcv.cnn import ContextBlock, NonLocal2d
from mmcv.ops import CrissCrossAttention
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import MODELS, init_default_scope
from mmseg.models.decode_heads import APCHead, DAHead, DMHead, EMAHead
from mmseg.models.decode_heads.ann_head import APNB
from mmseg.models.decode_heads.ham_head import Hamburger
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import conv2d
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from attn_plugins.modules import ExternalAttention2d, SelfAttention2d

ROOT = Path(__file__).resolve().parents[1]
PAPER_SHAPE = (1, 512, 128, 128)
NORM_CFG = dict(type='BN')


class Cost(NamedTuple):
    """Parameters of norms and of all else, and multiply-accumulates."""

    params: int
    norm_params: int
    macs: int


class Block(NamedTuple):
    """A row of the table.

    Attributes:
        name: Name of the row.
        build: Makes the block for a number of channels.
        printed: Parameters and multiply-accumulates as printed in Table XII.
        note: Where the count differs from what is printed, and why.
    """

    name: str
    build: Callable[[int], nn.Module]
    printed: tuple[str, str] = ('', '')
    note: str = ''


class Branches(nn.ModuleList):
    """Blocks side by side on one map, as the heads of mmseg run them."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [block(x) for block in self]


def _head_args(channels: int, width: int) -> dict:
    return dict(in_channels=channels, channels=width, num_classes=2, norm_cfg=NORM_CFG)


def dual_attention(channels: int) -> nn.Module:
    head = DAHead(pam_channels=channels // 8, **_head_args(channels, channels))
    return Branches(
        [
            nn.Sequential(head.pam_in_conv, head.pam),
            nn.Sequential(head.cam_in_conv, head.cam),
        ]
    )


def adaptive_context(channels: int) -> nn.Module:
    return Branches(APCHead(**_head_args(channels, channels // 2)).acm_modules)


def dynamic_filters(channels: int) -> nn.Module:
    return Branches(DMHead(fusion=True, **_head_args(channels, channels)).dcm_modules)


def hamburger(channels: int) -> nn.Module:
    return Hamburger(channels, dict(MD_R=64, eval_steps=6), norm_cfg=NORM_CFG)


def asymmetric_non_local(channels: int) -> nn.Module:
    return APNB(
        in_channels=channels,
        channels=channels // 2,
        out_channels=channels,
        query_scales=(1,),
        key_pool_scales=(1, 3, 6, 8),
        conv_cfg=None,
        norm_cfg=NORM_CFG,
        act_cfg=dict(type='ReLU'),
    )


def expectation_maximization(channels: int) -> nn.Module:
    head = EMAHead(
        ema_channels=channels, num_bases=64, num_stages=3, **_head_args(channels, 256)
    )
    return nn.Sequential(
        head.ema_mid_conv, head.ema_module, nn.ReLU(), head.ema_out_conv
    )


PEERS = (
    Block(
        'dual attention',
        dual_attention,
        ('4.82', '79.5'),
        'DAHead up to the attended maps: two 3x3 convolutions, PAM of C / 8, CAM. The '
        'parameters are the printed ones (4.82 with the norms); the MACs are not '
        'reproduced: the convolutions alone count 82.7, the N x N products 154.6, the '
        'C x C ones 8.6.',
    ),
    Block(
        'APC',
        adaptive_context,
        ('2.03', '17.6'),
        "APCHead's four context modules (scales 1, 2, 3, 6) of width C / 2. The MACs "
        'are the printed ones; of the parameters, 1.76 are found.',
    ),
    Block(
        'DM',
        dynamic_filters,
        ('3.00', '35.1'),
        "DMHead's four filter modules (1, 3, 5, 7) of width C and fusion: as printed.",
    ),
    Block(
        'Hamburger',
        hamburger,
        ('0.50', '17.6'),
        'LightHamHead without squeeze and align, 64 bases, 6 steps: within half a per '
        'cent of what is printed. The 7 steps that mmseg evaluates with count 18.8.',
    ),
    Block('non-local', NonLocal2d, note='mmcv, width C / 2'),
    Block('ANN', asymmetric_non_local, note="ANNHead's APNB, width C / 2"),
    Block(
        'EMA',
        expectation_maximization,
        note='EMAHead between its 3x3 convolutions: 64 bases, 3 steps',
    ),
    Block('GC', lambda channels: ContextBlock(channels, 1 / 4), note='mmcv, ratio 1/4'),
    Block('CC', CrissCrossAttention, note='mmcv, one pass; CCHead makes two'),
)

BLOCKS = (
    Block(
        'EA, plain order',
        lambda channels: ExternalAttention2d(channels, order='plain'),
        ('0.55', '9.2'),
        'Not reproduced: W and W_o of C x C, a query bias and two memories of 64 slots '
        'are 0.590 M (0.563 of 2^20) and 9.66. What is printed is near one memory as '
        'key and value: 0.557 M without bias, times the pixels 9.13.',
    ),
    Block(
        'EA, folded',
        lambda channels: ExternalAttention2d(channels, order='folded'),
        note='The same parameters and function: M_k W and W_o M_v are multiplied first '
        'and only then applied to the pixels.',
    ),
    Block(
        'EA, tied memory',
        lambda channels: ExternalAttention2d(channels, order='plain', tied=True),
        note='The one memory is multiplied twice, so the MACs stay.',
    ),
    Block(
        'self-attention',
        SelfAttention2d,
        ('1.00', '292'),
        'q, k, v and output of C x C: as printed.',
    ),
    *PEERS,
)
UNITS = (
    'Printed millions of parameters seem to be 2^20, printed billions of MACs 10^9: in '
    'these units the figures of self-attention, DM and Hamburger are met.'
)

# Every whole model beside the stock config that it differs from.
_FCN = 'mmseg::fcn/fcn_{}-d8_4xb4-160k_ade20k-512x512.py'
_DET = 'mmdet::{}_fpn_1x_coco.py'
MODEL_PAIRS = {
    'eanet_r50_ade20k': _FCN.format('r50'),
    'eanet_r101_ade20k': _FCN.format('r101'),
    'faster-rcnn-ea_r50_coco': _DET.format('faster_rcnn/faster-rcnn_r50'),
    'mask-rcnn-ea_r50_coco': _DET.format('mask_rcnn/mask-rcnn_r50'),
    'retinanet-ea_r50_coco': _DET.format('retinanet/retinanet_r50'),
    'cascade-rcnn-ea_r50_coco': _DET.format('cascade_rcnn/cascade-rcnn_r50'),
    'cascade-mask-rcnn-ea_r50_coco': _DET.format('cascade_rcnn/cascade-mask-rcnn_r50'),
}
# The crop of ADE20K, and COCO's 1333 x 800 padded to the stride.
MODEL_SIZES = {'mmseg': (512, 512), 'mmdet': (800, 1344)}
PROPOSALS, DETECTIONS = 1000, 100


def check_shape(shape: Sequence[int]) -> None:
    """Raises ``ValueError`` unless every block of the table takes the shape."""
    if len(shape) != 4 or min(shape) < 1 or shape[1] % 8:
        raise ValueError(
            '--shape must be B C H W, all positive and C a multiple of 8, '
            f'got {" ".join(map(str, shape))}'
        )


def count(
    build: Callable[[], nn.Module],
    shape: Sequence[int],
    forward: Callable[[nn.Module, Tensor], object] = lambda model, x: model(x),
) -> Cost:
    """Counts the inference of what ``build`` returns on one input of the shape."""
    model = (
        build().eval()
    )  # in earnest: some read numbers off tensors as they are built
    # Not the meta device, which autocast does not know; and not the fused attention,
    # which the counter does not know on a CPU.
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        sdpa_kernel(SDPBackend.MATH),
        torch.no_grad(),
        mock.patch('mmcv.ops.deform_conv.deform_conv2d', _plain_convolution),
        FlopCounterMode(display=False) as counter,
    ):
        forward(model, torch.empty(*shape))
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    total, of_norms = (
        sum(param.numel() for param in part.parameters())
        for part in (model, nn.ModuleList(norms))
    )
    return Cost(total - of_norms, of_norms, counter.get_total_flops() // 2)


def _plain_convolution(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    *options: object,
) -> Tensor:
    """Stands in for mmcv's operator, which takes no fake tensors."""
    return conv2d(x, weight, None, stride, padding, dilation, groups)


def load_model_config(name: str) -> Config:
    """Loads a config of this repository by its name, or a stock one by its scope."""
    if '::' in name:
        return get_config(name)
    return Config.fromfile(ROOT / 'configs' / f'{name}.py')


def build_model(cfg: Config) -> nn.Module:
    """Builds the model without asking for pretrained weights."""
    init_default_scope(cfg.default_scope)
    cfg.model.pop('pretrained', None)
    return MODELS.build(cfg.model)


def forward_model(model: nn.Module, x: Tensor) -> None:
    """Runs all that does not depend on what an image holds.

    The heads of a two-stage detector get a fixed number of proposals, as what the first
    stage finds would vary with the weights.
    """
    feats = model.extract_feat(x)
    if hasattr(model, 'decode_head'):
        model.decode_head(feats)
    elif hasattr(model, 'head'):
        model.head(feats)
    elif not hasattr(model, 'roi_head'):
        model.bbox_head(feats)
    else:
        model.rpn_head(feats)
        if getattr(model.roi_head, 'semantic_head', None):
            model.roi_head.semantic_head(feats)
        for name, rois, size in (('bbox', PROPOSALS, 7), ('mask', DETECTIONS, 14)):
            heads = getattr(model.roi_head, f'{name}_head', None) or ()
            for head in heads if isinstance(heads, Iterable) else [heads]:
                head(x.new_empty(rois, feats[0].shape[1], size, size))


def block_table(shape: Sequence[int]) -> str:
    is_papers = tuple(shape) == PAPER_SHAPE
    header = ['', 'params (10^6)', '(2^20)', 'MACs (10^9)']
    header += ['printed params', 'printed MACs'] if is_papers else []
    rows = []
    for block in BLOCKS:
        params, _, macs = count(lambda block=block: block.build(shape[1]), shape)
        counts = [f'{params / 1e6:.3f}', f'{params / 2**20:.3f}', f'{macs / 1e9:.2f}']
        rows.append([block.name, *counts, *(block.printed if is_papers else ())])
    lines = [f'Input {" x ".join(map(str, shape))}.', '', markdown(header, rows)]
    if is_papers:
        lines += ['', UNITS, '']
        lines += [f'- {block.name}: {block.note}' for block in BLOCKS]
        lines += ['- A2 (1.01, 25.7) and ACF (0.75, 79.5): in neither mmseg nor mmcv.']
    return '\n'.join(lines)


def model_table(size: tuple[int, int] | None = None) -> str:
    """Tabulates every model beside its stock base, at one size or at the recipe's."""
    rows = []
    for pair in MODEL_PAIRS.items():
        for name in pair:
            cfg = load_model_config(name)
            height, width = size or MODEL_SIZES[cfg.default_scope]
            params, norm_params, macs = count(
                lambda cfg=cfg: build_model(cfg), (1, 3, height, width), forward_model
            )
            label = name if name == pair[0] else f'stock {Path(name).stem}'
            counts = f'{(params + norm_params) / 1e6:.2f}', f'{macs / 1e9:.1f}'
            rows.append([label, f'{height} x {width}', *counts])
    return '\n'.join(
        (
            markdown(('', 'image', 'params (10^6)', 'MACs (10^9)'), rows),
            '',
            'Parameters include the auxiliary head, which inference does not run. A '
            f'two-stage detector counts with {PROPOSALS} proposals, a mask head with '
            f'{DETECTIONS} detections.',
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--shape', type=int, nargs='+', metavar='N', help='B C H W')
    parser.add_argument(
        '--models', action='store_true', help='whole models; of the shape, only H W'
    )
    args = parser.parse_args()
    # What mm says while it builds is nothing that a reader could do anything about.
    warnings.filterwarnings('ignore')
    shape = tuple(args.shape or PAPER_SHAPE)
    try:
        check_shape(shape)
    except ValueError as error:
        parser.error(str(error))
    if args.models:
        print(model_table(shape[2:] if args.shape else None))
    else:
        print(block_table(shape))


if __name__ == '__main__':
    main()
