"""Position tables that follow the model when a checkpoint was laid out for other maps.

A layer says which of its parameters are such tables; the backbone around it does the
same for all its layers at once, so that loading gives one warning.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from ..functional.relpos import resize_table


def resize_tables_on_load(
    module: nn.Module,
    names: Sequence[str] = (),
    *,
    fixed: Sequence[str] = (),
    keep_sum: bool = False,
) -> None:
    """Lets ``module`` load position tables of another reference size.

    Call it once, in ``__init__``. Tables of modules inside ``module`` that called it
    themselves are taken care of as well, with one warning for all.

    Args:
        module: The layer, or a backbone of such layers.
        names: Parameters of ``module`` that are tables ``(2 * R - 1, D)``, as in its
            state dict ('context.rel_h'): resized as by
            :func:`~attn_plugins.functional.relpos.resize_table`.
        fixed: Tables of another layout, which cannot be resized: another shape raises
            ``ValueError`` when loaded.
        keep_sum: As in :func:`~attn_plugins.functional.relpos.resize_table`, for the
            tables of ``module`` itself.
    """
    module.position_tables = (tuple(names), tuple(fixed), keep_sum)
    module.register_load_state_dict_pre_hook(_fit_tables)


class PositionTable(NamedTuple):
    """A table inside a module: its key in the state dict, and how it loads."""

    key: str
    parameter: Tensor
    resizable: bool
    keep_sum: bool


def _tables(module: nn.Module, prefix: str) -> Iterator[PositionTable]:
    """Yields all tables inside."""
    for path, layer in module.named_modules(prefix=prefix.rstrip('.')):
        names, fixed, keep_sum = getattr(layer, 'position_tables', ((), (), False))
        for name in (*names, *fixed):
            yield PositionTable(
                f'{path}.{name}' if path else name,
                layer.get_parameter(name),
                name in names,
                keep_sum,
            )


def _fit_tables(
    module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: object
) -> None:
    resized: dict[str, list[str]] = {}
    for key, parameter, resizable, keep_sum in _tables(module, prefix):
        table = state_dict.get(key)
        if table is None or table.shape == parameter.shape:
            continue
        if not resizable:
            raise ValueError(
                f'{key} is {tuple(table.shape)} in the checkpoint and '
                f'{tuple(parameter.shape)} in the model. This form of position table '
                'cannot be resized: build the model for the size of the checkpoint '
                '(rel_pos_size of the layer, rel_pos_input_size of a backbone), or '
                f'remove {key} from the checkpoint to start it afresh'
            )
        rows = table.shape[0] if table.ndim == 2 else 0
        if rows % 2 == 0 or table.shape[1:] != parameter.shape[1:]:
            continue  # no table of such a layer: load_state_dict reports the shapes
        size = (parameter.shape[0] + 1) // 2
        state_dict[key] = resize_table(table, size, keep_sum=keep_sum).clone()
        resized.setdefault(f'{(rows + 1) // 2} to {size}', []).append(key)
    if resized:
        changes = '; '.join(
            f'from {change} positions: {keys[0]}'
            + (f' and {len(keys) - 1} more' if len(keys) > 1 else '')
            for change, keys in resized.items()
        )
        warnings.warn(
            'the checkpoint was laid out for other map sizes than this model, its '
            f'position tables were resized {changes}',
            stacklevel=2,
        )
