"""EAHead in mmseg: the paper's layers, losses, gradients, any image size."""

import pytest
import torch

pytest.importorskip('mmseg')
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import nn
from torch.testing import assert_close

from attn_plugins.mm.models.segmentation import EAHead
from attn_plugins.modules import ExternalAttention2d

BN = dict(type='BN', requires_grad=True)


@pytest.fixture(autouse=True)
def _mmseg_scope():
    init_default_scope('mmseg')


def head(**options):
    return MODELS.build(
        dict(type='EAHead', in_channels=16, num_classes=5, norm_cfg=BN, **options)
    )


def segmentor(**head_options):
    return MODELS.build(
        dict(
            type='EncoderDecoder',
            data_preprocessor=dict(type='SegDataPreProcessor'),
            backbone=dict(type='ResNetV1c', depth=18, norm_cfg=BN),
            neck=dict(type='EANeck', in_channels=[64, 128, 256, 512], norm_cfg=BN),
            decode_head=dict(
                type='EAHead',
                in_channels=512,
                in_index=3,
                num_classes=5,
                norm_cfg=BN,
                attn_channels=32,
                channels=16,
                **head_options,
            ),
            train_cfg=dict(),
            test_cfg=ConfigDict(mode='whole'),
        )
    )


def labelled(height: int, width: int) -> SegDataSample:
    size = (height, width)
    sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size))
    label = torch.randint(0, 5, (1, height, width))
    sample.gt_sem_seg = PixelData(data=label)
    return sample


def test_layers_are_the_papers():
    built = head()
    conv_in, attn, conv_out = built.conv_in, built.attn, built.conv_out
    assert (conv_in.conv.in_channels, conv_in.conv.out_channels) == (16, 512)
    assert conv_in.conv.kernel_size == conv_out.conv.kernel_size == (3, 3)
    assert isinstance(attn, ExternalAttention2d)
    assert (attn.in_channels, attn.num_slots) == (512, 64)
    assert (conv_out.conv.in_channels, conv_out.conv.out_channels) == (512, 256)
    assert isinstance(conv_in.norm, nn.BatchNorm2d)
    assert isinstance(conv_out.activate, nn.ReLU)
    assert isinstance(built.dropout, nn.Dropout2d)
    assert built.dropout.p == 0.1
    assert (built.conv_seg.in_channels, built.conv_seg.out_channels) == (256, 5)
    assert built.conv_seg.kernel_size == (1, 1)


def test_attention_has_the_heads_norm():
    built = head(attn=dict(type='ExternalAttention2d', num_slots=8))
    assert isinstance(built.attn.norm, nn.BatchNorm2d)
    syncbn = MODELS.build(
        dict(
            type='EAHead',
            in_channels=16,
            num_classes=5,
            norm_cfg=dict(type='SyncBN', requires_grad=True),
        )
    )
    assert isinstance(syncbn.attn.norm, nn.SyncBatchNorm)


@pytest.mark.parametrize('options', [{}, dict(inplace=False)])
def test_inference_overwrites_no_map_but_the_heads_own(options):
    attn = dict(type='ExternalAttention2d', num_slots=8, **options)
    built = head(attn_channels=32, attn=attn).eval()
    overwritten = []

    def after(_, inputs, out):
        overwritten.append(inputs[0].data_ptr() == out.data_ptr())

    built.attn.register_forward_hook(after)
    features = torch.rand(2, 16, 9, 11)
    before = features.clone()
    expected = built((features,)).detach()
    with torch.no_grad():
        assert_close(built((features,)), expected)
    assert overwritten == [False, not options]
    assert torch.equal(features, before)


def test_a_forward_of_ones_own_may_read_the_map_again(monkeypatch):
    class ResidualEA(MODELS.get('ExternalAttention2d')):
        def forward(self, x):
            return x + 0.5 * super().forward(x)

    class ResidualHead(EAHead):
        def forward(self, inputs):
            x = self.conv_in(self._transform_inputs(inputs))
            return self.cls_seg(self.conv_out(x + self.attn(x)))

    monkeypatch.setitem(MODELS.module_dict, 'ResidualEA', ResidualEA)
    options = dict(in_channels=16, num_classes=5, channels=16, norm_cfg=BN)
    for built in (
        EAHead(attn=dict(type='ResidualEA', num_slots=8), **options),
        ResidualHead(attn=dict(type='ExternalAttention2d', num_slots=8), **options),
    ):
        built.eval()
        features = torch.rand(2, 16, 9, 11)
        expected = built((features,)).detach()
        with torch.no_grad():
            assert_close(built((features,)), expected)


def test_attention_can_be_left_out():
    built = head(attn=None, attn_channels=8)
    assert isinstance(built.attn, nn.Identity)
    assert built((torch.rand(1, 16, 5, 7),)).shape == (1, 5, 5, 7)


@pytest.mark.parametrize('size', [(33, 47), (64, 32)])
def test_loss_reaches_every_parameter(size):
    model = segmentor()
    losses = model.loss(torch.rand(2, 3, *size), [labelled(*size) for _ in range(2)])
    losses['decode.loss_ce'].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name


def test_prediction_has_the_images_size():
    model = segmentor(align_corners=True).eval()
    (prediction,) = model.predict(torch.rand(1, 3, 33, 47), [labelled(33, 47)])
    assert prediction.pred_sem_seg.data.shape == (1, 33, 47)


def test_init_weights_keeps_our_initialisation():
    """ResNet's own init_cfg draws Kaiming weights for what it does not know."""
    model = segmentor()
    with torch.no_grad():
        model.decode_head.attn.value.weight.zero_()
        model.neck.layers['3'].value.weight.zero_()
    model.init_weights()
    for attn in (model.decode_head.attn, model.neck.layers['3']):
        assert torch.equal(attn.value.weight, attn.key.weight.T)
        expected = (2 / attn.in_channels) ** 0.5
        assert attn.query.weight.std().item() == pytest.approx(expected, rel=0.1)


def test_as_a_plugin_of_a_bottleneck_resnet():
    plugin = dict(
        cfg=dict(type='ExternalAttention2d', num_slots=8, norm_cfg=BN),
        stages=(False, False, True, True),
        position='after_conv3',
    )
    small = dict(stem_channels=16, base_channels=16)
    backbone = MODELS.build(dict(type='ResNetV1c', depth=50, plugins=[plugin], **small))
    names = [
        n for n, m in backbone.named_modules() if isinstance(m, ExternalAttention2d)
    ]
    assert len(names) == 6 + 3
    assert all(name.endswith('.external_attention') for name in names)
    assert [x.shape[1] for x in backbone(torch.rand(1, 3, 33, 47))] == [
        64, 128, 256, 512,
    ]  # fmt: skip


def test_misspelt_option_is_named():
    with pytest.raises(TypeError, match='num_slot'):
        head(attn=dict(type='ExternalAttention2d', num_slot=8))


def test_several_maps_are_refused():
    with pytest.raises(
        ValueError, match=r"input_transform must be None or .* got 'mul"
    ):
        head(input_transform='multiple_select')
