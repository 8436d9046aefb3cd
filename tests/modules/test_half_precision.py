"""Half precision: finite for inputs of any usual scale, and close to float32.

Inference is compared at scales 1e-3 to 1e3, pure and under autocast. Gradients, under
autocast, are of a loss that is a sum over the map: where it is a mean, those of float16
can vanish, which is what torch's GradScaler is for.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from attn_plugins.functional.precision import clamp_cast
from attn_plugins.modules import (
    ExternalAttention2d,
    GlobalSelfAttention,
    LESA2d,
    MultiHeadExternalAttention,
    SelfAttention2d,
)

DTYPES = [torch.float16, torch.bfloat16]
SCALES = [10.0**power for power in range(-3, 4)]
# Relative errors, of the norm of the whole output.
#
# A dozen roundings in a row, of which some cancel.
NEAR = {dtype: 8 * torch.finfo(dtype).eps for dtype in DTYPES}
# At scale s, rounding queries and keys moves logits by s^2 * eps: by more than 1 from
# about 30 on (float16), 10 (bfloat16), where the softmax has one winner, and some
# pixels get another one. No order of the sums helps: q and k themselves are rounded.
ANOTHER_WINNER = {torch.float16: 0.15, torch.bfloat16: 0.35}
# Where most of GSA's output is beyond float16, and so its largest number, rounding of
# the rest, which is small beside that only, can change signs.
OUT_OF_RANGE = 0.1
# A ReLU or a softmax in between passes other gradients on to a few pixels.
NEAR_GRADIENT = {torch.float16: 0.05, torch.bfloat16: 0.2}
# Beneath its normal numbers float16 has steps of this size.
STEP = torch.finfo(torch.float16).smallest_normal * torch.finfo(torch.float16).eps

HEADS, SIZE = 4, (10, 12)


def lesa(**options) -> LESA2d:
    return LESA2d(32, num_heads=HEADS, rel_pos_size=12, **options)


def gsa(**options) -> GlobalSelfAttention:
    return GlobalSelfAttention(32, HEADS, rel_pos_size=12, **options)


LAYERS = {
    'external': lambda: ExternalAttention2d(32, 16),
    'external, plain': lambda: ExternalAttention2d(32, 16, order='plain'),
    'external, softmax': lambda: ExternalAttention2d(32, 16, normalization='softmax'),
    'external, eps': lambda: ExternalAttention2d(32, 16, eps=1e-9),
    'multi-head external': lambda: MultiHeadExternalAttention(32, HEADS, 16),
    'self-attention': lambda: SelfAttention2d(32, HEADS),
    'self-attention, double': lambda: SelfAttention2d(
        32, HEADS, normalization='double'
    ),
    **{
        f'LESA, {variant}, {name}': lambda variant=variant, options=options: lesa(
            variant=variant, **options
        )
        for variant in ('dynamic', 'static', 'attention', 'augmentation')
        for name, options in {
            'blocks': dict(impl='blocks'),
            'sdpa': dict(impl='sdpa'),
            'flat': dict(position='flat'),
        }.items()
    },
    'GSA': gsa,
    'GSA, pooled': lambda: gsa(stride=2),
    'GSA, max_shift': lambda: gsa(max_shift=3),
    'GSA, content': lambda: gsa(columns=False, rows=False),
    'GSA, axial content': lambda: gsa(axial_content=True),
}
layers = pytest.mark.parametrize('name', LAYERS)
dtypes = pytest.mark.parametrize('dtype', DTYPES, ids=['float16', 'bfloat16'])


def draw(layer: nn.Module, scale: float) -> Tensor:
    x = torch.randn(2, 32, *SIZE)
    tokens = isinstance(layer, MultiHeadExternalAttention)
    return scale * (x.flatten(2).mT if tokens else x)


def has_one_winner(layer: nn.Module, scale: float) -> bool:
    """Tells whether a softmax over products of two maps is all but an argmax."""
    squares = isinstance(layer, (SelfAttention2d, LESA2d)) or getattr(
        layer, 'axial_content', False
    )
    return squares and scale > 1


@torch.no_grad()
def infer(layer: nn.Module, x: Tensor, dtype: torch.dtype, autocast: bool) -> Tensor:
    if autocast:
        with torch.autocast('cpu', dtype):
            return layer(x)
    return copy.deepcopy(layer).to(dtype)(x.to(dtype))


@layers
@dtypes
@pytest.mark.parametrize('autocast', [True, False], ids=['autocast', 'pure'])
def test_inference_is_finite_and_close_at_any_scale(name, dtype, autocast):
    layer = LAYERS[name]().eval()
    for scale in SCALES:
        x = draw(layer, scale)
        out = infer(layer, x, dtype, autocast)
        assert out.isfinite().all(), scale
        with torch.no_grad():
            # GSA without a norm grows as the square and the cube of its input; what
            # float16 cannot hold becomes its largest number.
            expected = clamp_cast(layer(x), dtype).float()
        difference = out.float() - expected
        tolerance = (ANOTHER_WINNER if has_one_winner(layer, scale) else NEAR)[dtype]
        if expected.abs().max() == torch.finfo(dtype).max:
            tolerance = OUT_OF_RANGE
        error = difference.norm() / expected.norm()
        assert error < tolerance or difference.abs().max() <= STEP, (scale, error)


@layers
@dtypes
def test_gradients_under_autocast_are_finite_and_near(name, dtype):
    """Of a training step, whose batch norms keep what comes after them in scale.

    Close at scale 1 only: at 1e-3, the norm divides a variance that is less than its
    own eps; from 10 on, see ``ANOTHER_WINNER``.
    """
    # Of GSA, whose output goes with the square of its input, so do the gradients.
    overflows = name.startswith('GSA') and dtype == torch.float16
    for scale in (1e-3, 1.0, 3.0 if overflows else 1e3):
        layer = LAYERS[name]()
        x = draw(layer, scale)
        exact = gradients(copy.deepcopy(layer), x)
        found = gradients(layer, x, dtype)
        for key, gradient in found.items():
            assert gradient.isfinite().all(), (scale, key)
        if scale == 1:
            for part in ('input', 'parameters'):
                error = (found[part] - exact[part]).norm() / exact[part].norm()
                assert error < NEAR_GRADIENT[dtype], (part, error)


def gradients(
    layer: nn.Module, x: Tensor, autocast: torch.dtype | None = None
) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    with torch.autocast('cpu', autocast, enabled=autocast is not None):
        out = layer(x)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    (out.float() * weight).sum().backward()
    parts = [parameter.grad.flatten() for parameter in layer.parameters()]
    return dict(input=x.grad, parameters=torch.cat(parts))


# --- the released order of external attention ----------------------------------------

RELEASED_EPS = 1e-9


class ReleasedExternalAttention(nn.Module):
    """The released formulation: two softmax-like steps in the type of the input."""

    def __init__(self, channels: int, num_slots: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv1d(channels, num_slots, 1, bias=False)
        self.value = nn.Conv1d(num_slots, channels, 1, bias=False)
        self.out = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.key(self.query(x).flatten(2))
        attn = F.softmax(logits, dim=-1)  # over pixels
        attn = attn / (RELEASED_EPS + attn.sum(dim=1, keepdim=True))  # over slots
        return F.relu(self.norm(self.out(self.value(attn).view_as(x))) + x)


@pytest.mark.parametrize('autocast', [True, False], ids=['autocast', 'pure'])
def test_the_released_order_is_not_finite_in_float16(autocast):
    """A pixel far below every slot's maximum: 0 in all slots, divided by 0 + 1e-9 = 0.

    float16 has neither the pixel's weights nor the 1e-9.
    """
    layer = ExternalAttention2d(64, 64, eps=RELEASED_EPS).eval()
    released = ReleasedExternalAttention(64, 64).eval()
    with torch.no_grad():
        for mine, theirs in zip(layer.parameters(), released.parameters(), strict=True):
            theirs.copy_(mine.view_as(theirs))
    x = torch.randn(1, 64, 64, 64)
    with torch.no_grad():
        assert_close(layer(x), released(x))  # the same function, in float32
    failed = set()
    for scale in SCALES:
        ours = infer(layer, scale * x, torch.float16, autocast)
        assert ours.isfinite().all()
        theirs = infer(released, scale * x, torch.float16, autocast)
        if not theirs.isfinite().all():
            failed.add(scale)
    assert {100.0, 1000.0} <= failed
    assert 1.0 not in failed
