"""Performer attention: softmax attention of tokens through fixed random features.

Source: Choromanski et al., "Rethinking Attention with Performers", arXiv 2009.14794,
in the form that T2T-ViT's tokens-to-token stage has; the rows "Performer" of Table II
of the external attention paper, arXiv 2105.02358.

With the features ``f_r(x) = exp(w_r . x - |x|^2 / 2)`` the output of a token is ``sum_r
f_r(q) sum_n f_r(k_n) v_n / sum_r f_r(q) sum_n f_r(k_n)``. In that form the powers
overflow in half precision and their sums can vanish, so it is taken with 1e-8 in the
denominator. It is the same as two softmaxes, one over tokens and one over features,
which can do neither: the way double normalisation is in ``functional.external``. What
all features of a query have in common, ``|q|^2 / 2``, cancels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def performer_attention(q: Tensor, k: Tensor, v: Tensor, features: Tensor) -> Tensor:
    """Attention of every token to every token, at a cost linear in their number.

    The exponents are in float32 or better whatever comes in, under autocast too.

    Args:
        q: ``(..., N, D)``.
        k: ``(..., N, D)``.
        v: ``(..., N, V)``.
        features: The random directions w, ``(R, D)``.

    Returns:
        ``(..., N, V)``.

    Raises:
        ValueError: If the width of ``q`` or ``k`` is not that of ``features``.
    """
    for name, tensor in dict(q=q, k=k).items():
        if tensor.ndim < 2 or tensor.shape[-1] != features.shape[-1]:
            raise ValueError(
                f'{name} must be (..., N, {features.shape[-1]}) to fit features '
                f'{tuple(features.shape)}, got {tuple(tensor.shape)}'
            )
    # Autocast would take the exponents in half precision.
    with torch.autocast(q.device.type, enabled=False):
        of_queries, of_keys = _two_softmaxes(q, k, features)
        return (of_queries @ (of_keys.mT @ v.to(of_keys.dtype))).to(v.dtype)


@torch.no_grad()
def query_weights(
    q: Tensor, k: Tensor, features: Tensor, queries: Sequence[int]
) -> Tensor:
    """Weights of all tokens in :func:`performer_attention`, for some queries.

    Args:
        q: ``(..., N, D)``.
        k: ``(..., N, D)``.
        features: As there.
        queries: Tokens in [0, N).

    Returns:
        ``(..., Q, N)``, in float32 or better; each query's sum to 1.
    """
    of_queries, of_keys = _two_softmaxes(q[..., list(queries), :], k, features)
    return of_queries @ of_keys.mT


def _two_softmaxes(q: Tensor, k: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Of queries over features, and of keys over tokens: ``(..., N, R)`` each."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    q, k, features = (tensor.to(dtype) for tensor in (q, k, features))
    key = k @ features.T - k.square().sum(-1, keepdim=True) / 2
    total = key.logsumexp(dim=-2, keepdim=True)  # over tokens: (..., 1, R)
    return (q @ features.T + total).softmax(dim=-1), (key - total).exp()
