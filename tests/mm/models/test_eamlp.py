"""EAMLP as a backbone of mmpretrain: any image size, stock outputs, stock T2T-ViT."""

import copy
import functools
import pickle

import pytest
import torch

pytest.importorskip('mmpretrain')
import torch.nn.functional as F
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from mmpretrain.models.backbones import T2T_ViT
from mmpretrain.registry import MODELS
from torch.testing import assert_close

import attn_plugins  # noqa: F401 (registers the backbone)
from attn_plugins.functional import reference
from attn_plugins.mm.models.eamlp import ATTN_TYPES, EAMLP, TOKEN_TYPES
from attn_plugins.modules import (
    MultiHeadExternalAttention,
    TokenBatchNorm,
    TokenExternalAttention,
)

SMALL = dict(embed_dims=16, num_layers=2, t2t_cfg=dict(token_dims=8))
PAIRS = list(zip(TOKEN_TYPES, ATTN_TYPES, strict=True))  # each type once
SIZES = [(3, 3), (3, 40), (33, 47), (48, 32), (65, 17)]


@pytest.fixture(autouse=True)
def _mmpretrain_scope():
    init_default_scope('mmpretrain')


def small(**options) -> EAMLP:
    backbone = MODELS.build(dict(type='EAMLP', **{**SMALL, **options}))
    backbone.init_weights()
    return backbone


def grid_of(size: tuple[int, int]) -> tuple[int, int]:
    """Windows of 7, 3 and 3 pixels with strides of 4, 2 and 2, padded by 2, 1 and 1."""
    height, width = ((((s - 3) // 4) // 2) // 2 + 1 for s in size)
    return height, width


@pytest.mark.parametrize(('token_type', 'attn_type'), PAIRS)
def test_any_image_size(token_type, attn_type):
    backbone = small(token_type=token_type, attn_type=attn_type, out_type='featmap')
    for size in SIZES:
        (features,) = backbone(torch.randn(2, 3, *size))
        assert features.shape == (2, 16, *grid_of(size))
        assert features.isfinite().all()


@pytest.mark.parametrize(('token_type', 'attn_type'), PAIRS)
@pytest.mark.parametrize('mlp_norm_cfg', [None, dict(type='BN1d')])
def test_every_parameter_gets_a_gradient(token_type, attn_type, mlp_norm_cfg):
    backbone = small(
        token_type=token_type, attn_type=attn_type, mlp_norm_cfg=mlp_norm_cfg
    )
    backbone(torch.randn(2, 3, 33, 47))[0].square().sum().backward()
    for name, parameter in backbone.named_parameters():
        assert (parameter.grad is None) == (name == 'pos_embed')
        assert parameter.requires_grad == (name != 'pos_embed')


@pytest.mark.parametrize(
    ('out_type', 'shape'),
    [
        ('cls_token', (2, 16)),
        ('avg_featmap', (2, 16)),
        ('raw', (2, 7, 16)),
        ('featmap', (2, 16, 2, 3)),
    ],
)
def test_outputs_are_those_of_stock_backbones(out_type, shape):
    backbone = small(out_type=out_type, out_indices=(0, -1))
    outputs = backbone(torch.randn(2, 3, 33, 47))
    assert [tuple(out.shape) for out in outputs] == [shape] * 2


def test_without_class_token():
    backbone = small(out_type='avg_featmap', with_cls_token=False, img_size=(32, 48))
    assert backbone.pos_embed.shape == (1, 6, 16)
    assert backbone(torch.randn(2, 3, 33, 47))[0].shape == (2, 16)


@pytest.mark.parametrize(
    ('depth', 'channels', 'heads', 'hidden'),
    [(7, 256, 16, 512), (14, 384, 24, 1152), (19, 448, 28, 1344)],
)
def test_sizes_of_table_2(depth, channels, heads, hidden):
    with torch.device('meta'):
        backbone = EAMLP(depth)
    assert len(backbone.encoder) == depth
    for stage in (backbone.tokens_to_token.attention1.attn, backbone.encoder[0].attn):
        assert isinstance(stage, (TokenExternalAttention, MultiHeadExternalAttention))
    for layer in backbone.encoder:
        assert layer.attn.num_heads == heads
        assert layer.attn.query.out_features == 4 * channels
        assert layer.attn.key.weight.shape == (64, 64)
        assert layer.ffn.layers[0][0].out_features == hidden
    assert backbone.tokens_to_token.attention2.attn.key.weight.shape == (128, 64)


@pytest.mark.parametrize('heads', [1, 8, 32])
def test_heads_keep_their_width(heads):
    backbone = small(attn=dict(num_heads=heads), layer_cfgs=dict(num_heads=2))
    attn = backbone.encoder[0].attn
    assert attn.query.out_features == 8 * heads
    assert attn.key.in_features == 8


def test_one_head_of_external_attention():
    backbone = small(attn_type='ea')
    attn = backbone.encoder[0].attn
    assert attn.num_heads == 1
    assert attn.key.weight.shape == (256, 16)


class TestPositions:
    @pytest.mark.parametrize(('size', 'tokens'), [(224, 197), (384, 577), (233, 226)])
    def test_table_is_the_sinusoid_of_the_tokens(self, size, tokens):
        table = small(img_size=size).pos_embed
        assert table.shape == (1, tokens, 16)
        for place in (0, 1, tokens - 1):
            for channel in range(16):
                angle = torch.tensor(
                    place / 10000 ** (channel // 2 * 2 / 16), dtype=torch.float64
                )
                expected = angle.cos() if channel % 2 else angle.sin()
                assert abs(table[0, place, channel] - expected) < 1e-6

    @pytest.mark.parametrize('size', SIZES)
    def test_reference_size_may_be_anything(self, size):
        backbone = small(img_size=size)
        assert tuple(backbone.patch_resolution) == grid_of(size)
        used = self.table_used(backbone, size)
        assert torch.equal(used, backbone.pos_embed)

    @staticmethod
    def table_used(backbone: EAMLP, size: tuple[int, int]) -> torch.Tensor:
        """What is added to the tokens: the difference to the same with no table."""
        seen = []
        handle = backbone.drop_after_pos.register_forward_hook(
            lambda *args: seen.append(args[2])
        )
        with torch.no_grad():
            for parameter in (*backbone.tokens_to_token.parameters(),):
                parameter.zero_()
            backbone.cls_token.zero_()
            backbone(torch.zeros(1, 3, *size))
        handle.remove()
        return seen[0]

    @pytest.mark.parametrize('size', [(17, 65), (33, 47), (400, 240)])
    def test_table_follows_the_grid(self, size):
        """In each direction by itself: rows stay rows, columns stay columns."""
        backbone = small()
        height, width = grid_of(size)
        used = self.table_used(backbone, size)
        table = backbone.pos_embed
        assert used.shape == (1, 1 + height * width, 16)
        assert torch.equal(used[:, 0], table[:, 0])
        expected = F.interpolate(
            table[:, 1:].mT.reshape(1, 16, 14, 14), (height, width), mode='bicubic'
        )
        assert_close(used[:, 1:].mT.reshape(expected.shape), expected)

    def test_weights_of_another_reference_size_can_be_loaded(self, tmp_path):
        source, target = small(img_size=224), small(img_size=384)
        torch.save(source.state_dict(), tmp_path / 'source.pth')
        load_checkpoint(target, str(tmp_path / 'source.pth'), strict=True)
        images = torch.randn(1, 3, 384, 384)
        source.eval()
        target.eval()
        assert_close(target(images), source(images))

    def test_table_of_no_square_grid_is_reported(self):
        state_dict = small(img_size=(32, 48)).state_dict()
        with pytest.raises(RuntimeError, match='size mismatch for pos_embed'):
            small().load_state_dict(state_dict)


class TestSelfAttention:
    """With self-attention throughout it is mmpretrain's T2T-ViT, the scale fixed."""

    @staticmethod
    def fix_scale(stock: T2T_ViT) -> None:
        for layer in (*stock.encoder, *stock.tokens_to_token.children()):
            if hasattr(layer, 'attn'):
                heads = layer.attn.num_heads
                layer.attn.scaled_dot_product_attention = functools.partial(
                    F.scaled_dot_product_attention,
                    scale=(layer.attn.input_dims // heads) ** -0.5,
                )

    @pytest.mark.parametrize('size', [(224, 224), *SIZES])
    def test_equals_the_stock_network(self, size):
        ours = small(token_type='transformer', attn_type='transformer')
        layer_cfgs = dict(num_heads=4, feedforward_channels=32)
        stock = T2T_ViT(**SMALL, layer_cfgs=layer_cfgs)
        stock.load_state_dict(ours.state_dict(), strict=True)
        self.fix_scale(stock)
        ours.eval()
        stock.eval()
        images = torch.randn(2, 3, *size)
        assert torch.equal(ours(images)[0], stock(images)[0])

    def test_scale_is_the_papers(self):
        """Logits are multiplied by it; mmpretrain 1.2.0 divides."""
        attn = small(attn_type='transformer').double().encoder[0].attn
        tokens = torch.randn(2, 5, 16, dtype=torch.float64)
        heads = [
            tuple(t[..., 4 * h : 4 * h + 4] for t in attn.qkv(tokens).chunk(3, dim=-1))
            for h in range(4)
        ]
        attended = [reference.self_attention(*head, scale=4**-0.5) for head in heads]
        assert_close(attn(tokens), attn.proj(torch.cat(attended, dim=-1)))

    def test_can_be_copied(self):
        backbone = small(token_type='transformer', attn_type='transformer')
        backbone.eval()
        images = torch.randn(1, 3, 33, 47)
        for other in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
            assert torch.equal(other(images)[0], backbone(images)[0])


@pytest.mark.parametrize('attn_type', ['mea', 'ea', 'mlp'])
def test_copies_of_external_attention(attn_type):
    backbone = small(attn_type=attn_type, drop_path_rate=0.1)
    backbone.eval()
    images = torch.randn(1, 3, 33, 47)
    for other in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        assert torch.equal(other(images)[0], backbone(images)[0])


def test_stochastic_depth_drops_whole_branches():
    backbone = small(num_layers=3, drop_path_rate=0.5)
    rates = [layer.attn.drop_path.drop_prob for layer in backbone.encoder]
    assert rates == [0, 0.25, 0.5]
    attn = backbone.encoder[2].attn
    out = attn(torch.randn(64, 5, 16) * 100)
    dropped = (out == 0).flatten(1).all(dim=1)
    assert 10 < dropped.sum() < 54
    attn.eval()
    assert attn(torch.randn(64, 5, 16)).all()


def test_initial_weights_under_the_stock_init_cfg():
    init_cfg = [
        dict(type='TruncNormal', layer='Linear', std=0.02),
        dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
    ]
    backbone = EAMLP(7, init_cfg=init_cfg, token_type='performer')
    features = backbone.tokens_to_token.attention1.attn.features
    backbone.init_weights()
    for name, parameter in backbone.named_parameters():
        if name.endswith('.weight') and parameter.ndim == 2:
            assert 0.019 < parameter.std() < 0.021, name
    assert_close(features @ features.T, 32 * torch.eye(32), rtol=0, atol=1e-4)


def test_batch_norm_before_the_mlps_alone():
    backbone = small(mlp_norm_cfg=dict(type='BN1d'))
    for layer in backbone.encoder:
        assert isinstance(layer.ln2, TokenBatchNorm)
        assert isinstance(layer.ln2.norm, torch.nn.BatchNorm1d)
        assert isinstance(layer.ln1, torch.nn.LayerNorm)
    assert isinstance(backbone.norm, torch.nn.LayerNorm)


@pytest.mark.parametrize('norm', ['BN', 'BN2d', 'BN3d', 'IN', 'IN1d', 'LN2d'])
def test_norms_of_maps_before_the_mlps_are_refused(norm):
    with pytest.raises(ValueError, match=r"mlp_norm_cfg=.* tokens .* use .*'BN1d'"):
        small(mlp_norm_cfg=dict(type=norm))


def test_sizes_of_another_network_are_refused():
    """A config of depth 7 over the stock T2T-ViT-14's."""
    stock = dict(embed_dims=384, num_layers=14, layer_cfgs=dict(num_heads=6))
    message = 'num_layers=14 is that of another network than depth=7.*_delete_=True'
    with pytest.raises(ValueError, match=message):
        EAMLP(depth=7, **stock)
    with torch.device('meta'):
        assert len(EAMLP(depth=14, **stock).encoder) == 14


@pytest.mark.parametrize('token_type', TOKEN_TYPES)
def test_half_precision_is_finite(token_type):
    backbone = small(token_type=token_type).half()
    (out,) = backbone(10 * torch.randn(2, 3, 33, 47, dtype=torch.float16))
    assert out.dtype == torch.float16
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(depth=12), 'depth must be one of 7, 14, 19, got 12'),
        (dict(token_type='sa'), "token_type must be one of 'ea', .* got 'sa'"),
        (dict(attn_type='sa'), "attn_type must be one of 'mea', .* got 'sa'"),
        (dict(attn=dict(slots=8)), "attn=.* unknown option 'slots', did you mean"),
        (dict(token_attn=dict(eps_=1)), "token_attn=.* unknown option 'eps_'"),
        (dict(token_attn=dict(num_slots=0)), 'num_slots must be a positive'),
        (
            dict(attn_type='transformer', attn=dict(num_slots=8)),
            "takes the place of self-attention, and with type 'transformer' it stays",
        ),
        (dict(attn=dict(in_channels=8)), "unknown option 'in_channels'"),
        (dict(layer_cfgs=dict(qkv_bias=True)), 'layer_cfgs has qkv_bias=True, which'),
        (dict(layer_cfgs=[{}] * 3), 'layer_cfgs must be one dict, or 2 of them'),
        (dict(layer_cfgs=dict(num_heads=3)), 'divisible by num_heads=3'),
        (dict(embed_dims=0), 'embed_dims must be a positive integer, got 0'),
        (dict(img_size=2), 'img_size must be 3 x 3 pixels or more, got 2'),
        (dict(img_size=(32, 32, 32)), 'img_size must be'),
        (dict(out_type='cls'), 'out_type'),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        EAMLP(**{**SMALL, **options})


@pytest.mark.parametrize('shape', [(2, 3, 2, 40), (2, 1, 32, 32), (3, 32, 32)])
def test_wrong_images(shape):
    with pytest.raises(ValueError, match=r'expects images \(B, 3, H, W\) of 3 x 3 pix'):
        small()(torch.randn(shape))


def test_misspelt_arguments_are_refused():
    with pytest.raises(TypeError, match='drop_path'):
        EAMLP(drop_path=0.1)
