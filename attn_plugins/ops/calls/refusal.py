"""What operators that are not provided say."""

from typing import NoReturn


def refuse(name: str, *args, **kwargs) -> NoReturn:
    """Raises, whatever the operator is called with."""
    raise NotImplementedError(
        f'attn_plugins.ops does not provide the mmcv operator {name}: install a '
        'compiled mmcv in place of mmcv-lite (`make setup OPS=compiled` does)'
    )
