"""Single weights of LESA's attention: the row of a query, and the diagonal."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .blocks import Similarity, blocks, check_shapes, logits_per_block


@torch.no_grad()
def query_weights(
    q: Tensor,
    k: Tensor,
    rel_h: Tensor,
    rel_w: Tensor,
    queries: Sequence[tuple[int, int]],
) -> Tensor:
    """Weights that the softmax gives to all pixels, for some queries.

    Args:
        q: As in :func:`relative_attention`.
        k: As there.
        rel_h: As there.
        rel_w: As there.
        queries: Row and column of each.

    Returns:
        ``(B, Q, h, H, W)``, without gradient, in float32 or better.
    """
    check_shapes(q, k, k, rel_h, rel_w)
    height, width = q.shape[3:]
    rows = []
    for y, x in queries:
        query = q[..., y, x]  # (B, h, D)
        # Row `o + H - 1` of a table is that of a key o positions after its query.
        vertical = rel_h[:, height - 1 - y : 2 * height - 1 - y]
        horizontal = rel_w[:, width - 1 - x : 2 * width - 1 - x]
        logits = torch.einsum('bhd,bhdij->bhij', query, k)
        logits = logits + torch.einsum('bhd,hid->bhi', query, vertical).unsqueeze(3)
        logits = logits + torch.einsum('bhd,hjd->bhj', query, horizontal).unsqueeze(2)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        rows.append(logits.flatten(2).softmax(-1, dtype=dtype).view(logits.shape))
    return torch.stack(rows, dim=1)


@torch.no_grad()
def own_weight(
    q: Tensor,
    k: Tensor,
    rel_h: Tensor,
    rel_w: Tensor,
    *,
    block: int | None = None,
) -> Tensor:
    """Weight that the softmax gives to each query's own pixel: eq. 2's unary term.

    Args: as in :func:`relative_attention`.

    Returns:
        ``(B, h, H, W)``, without gradient.
    """
    check_shapes(q, k, k, rel_h, rel_w)
    batch, heads, _, height, width = q.shape
    if width > height:
        q, k = q.transpose(3, 4), k.transpose(3, 4)
        return own_weight(q, k, rel_w, rel_h, block=block).transpose(2, 3)
    size = logits_per_block(q) if block is None else block
    with torch.autocast(q.device.type, enabled=False):
        similarity = Similarity(q, k, rel_h, rel_w)
        own = similarity.q.new_empty(batch * heads, height, width)
        for part in blocks(batch * heads, height, width, size):
            logits = similarity.of(part)[2]
            row = logits.unflatten(-1, (height, width))[:, :, part.row, part.columns]
            to_self = row.diagonal(dim1=1, dim2=2) - logits.logsumexp(dim=-1)
            own[part.heads, part.row, part.columns] = to_self.exp()
    return own.unflatten(0, (batch, heads)).to(q.dtype)
