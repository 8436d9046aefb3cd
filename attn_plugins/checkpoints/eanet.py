"""Released EANet checkpoints, in the key names of mmseg's ResNetV1c and our head."""

import re

from torch import Tensor

# The released network is one Sequential: stem convolutions, stem norm, (ReLU, pooling),
# then the four stages.
_RENAMED = (
    (r'extractor\.0\.(\d)\.', r'backbone.stem.\1.'),
    (r'extractor\.1\.', r'backbone.stem.7.'),
    (r'extractor\.([4-7])\.', lambda m: f'backbone.layer{int(m[1]) - 3}.'),
    (r'fc0\.', 'decode_head.conv_in.'),
    (r'linu\.conv1\.', 'decode_head.attn.query.'),
    (r'linu\.linear_0\.', 'decode_head.attn.key.'),
    (r'linu\.linear_1\.', 'decode_head.attn.value.'),
    (r'linu\.conv2\.0\.', 'decode_head.attn.out.'),
    (r'linu\.conv2\.1\.', 'decode_head.attn.norm.'),
    (r'fc1\.0\.', 'decode_head.conv_out.'),
    (r'fc2\.', 'decode_head.conv_seg.'),
)
_LINEAR = re.compile(r'decode_head\.attn\.(query|key|value|out)\.weight')


def convert_eanet(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames a released EANet state dict for ``configs/eanet_r{50,101}_voc.py``.

    Its 1x1 convolutions in the attention block become the linear layers' matrices.
    Build the block with ``eps=1e-9``, which the released code adds to the L1 norm.

    Args:
        state_dict: The released keys; a 'module.' prefix is dropped.

    Returns:
        A state dict of the segmentor without its auxiliary head, which the released
        network does not have.

    Raises:
        ValueError: If a key belongs to no part of EANet.
    """
    converted = {}
    for key, value in state_dict.items():
        key = key.removeprefix('module.')
        for pattern, new in _RENAMED:
            renamed, hits = re.subn(rf'^{pattern}', new, key)
            if hits:
                break
        else:
            raise ValueError(
                f'expected a released EANet state dict (keys extractor.*, fc0.*, '
                f'linu.*, fc1.*, fc2.*), got the key {key!r}'
            )
        if _LINEAR.fullmatch(renamed):
            value = value.flatten(1)
        converted[renamed] = value
    return converted
