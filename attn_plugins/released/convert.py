"""Turns released checkpoints into ones for our models, and accounts for every key.

Pure functions: ``attn_plugins convert`` reads and writes the files.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

from . import eamlp, eanet, lesa
from .layouts import Layout, apply_table

LAYOUTS: tuple[Layout, ...] = (*lesa.LAYOUTS, *eanet.LAYOUTS, *eamlp.LAYOUTS)

# Below this share of common keys a layout is not worth naming.
_NEAR = 0.1
_NAMED_KEYS = 5


class Conversion(NamedTuple):
    """A converted checkpoint, and an account of every key of the released one.

    Attributes:
        layout: What kind of checkpoint it was.
        state_dict: Our keys.
        meta: For the written file: the layout's name, and what a config has to say.
        kept: Released keys that keep their names.
        renamed: New names by released key.
        reshaped: Released keys whose tensors have another shape now.
        dropped: Reasons by released key.
        missing: Keys that the layout has, that may be missing, and that are.
        left_out: What the file held beside the state dict and is not taken over.
    """

    layout: Layout
    state_dict: dict[str, Tensor]
    meta: dict
    kept: list[str]
    renamed: dict[str, str]
    reshaped: list[str]
    dropped: dict[str, str]
    missing: list[str]
    left_out: list[str]


def convert(checkpoint: Mapping) -> Conversion:
    """Converts a released checkpoint of any known layout.

    Args:
        checkpoint: What the file holds: a state dict, or a dict with one as
            'state_dict'. A 'module.' prefix is dropped.

    Raises:
        ValueError: If it holds no state dict, the layout is unknown (the message names
            the closest one), or its tensors contradict each other.
    """
    released, outer = _unwrap(checkpoint)
    layout = recognise(released)
    table = layout.table
    meta = dict(converted_from=layout.name, **layout.describe(released))
    meta.update(_dataset_meta(outer.get('meta')))
    left_out = list(outer)
    if 'dataset_meta' in meta:
        left_out[left_out.index('meta')] = 'meta (all but its class names)'
    kept = [key for key in released if table[key].new == key]
    return Conversion(
        layout=layout,
        state_dict=apply_table(table, released),
        meta=meta,
        kept=kept,
        renamed={
            key: table[key].new for key in released if table[key].new not in (None, key)
        },
        reshaped=[key for key in released if table[key].reshape],
        dropped={key: table[key].why for key in released if table[key].new is None},
        missing=[key for key in table if key not in released],
        left_out=left_out,
    )


def recognise(keys: Iterable[str]) -> Layout:
    """Finds the layout that has these keys.

    Raises:
        ValueError: If there is none; the message names the closest one, and what is
            missing and unknown in comparison.
    """
    keys = dict.fromkeys(keys)
    for layout in LAYOUTS:
        if not any(_difference(layout, keys)):
            return layout

    def likeness(layout: Layout) -> float:
        return len(layout.table.keys() & keys) / len(layout.table.keys() | keys)

    closest = max(LAYOUTS, key=likeness)
    if likeness(closest) < _NEAR:
        known = ''.join(f'\n  {layout.name}' for layout in LAYOUTS)
        raise ValueError(
            f'this is no released checkpoint that is known here: its keys are '
            f'{_listed(list(keys))}. Known are:{known}'
        )
    missing, unknown = _difference(closest, keys)
    found = [
        f'{words} {_listed(names)}'
        for words, names in (('it lacks', missing), ('it also has', unknown))
        if names
    ]
    raise ValueError(
        f'this layout is unknown. It is closest to that of "{closest.name}", '
        f'compared with which {", and ".join(found)}.'
    )


def _difference(layout: Layout, keys: Mapping) -> tuple[list[str], list[str]]:
    """Keys that it must have and lacks, and keys that it must not have."""
    missing = [
        key
        for key, entry in layout.table.items()
        if not (entry.optional or key in keys)
    ]
    return missing, [key for key in keys if key not in layout.table]


def _listed(keys: list[str]) -> str:
    """The first few keys, and how many more there are."""
    more = len(keys) - _NAMED_KEYS
    return ', '.join(keys[:_NAMED_KEYS]) + (f' and {more} more' if more > 0 else '')


def _unwrap(checkpoint: Mapping) -> tuple[dict[str, Tensor], dict]:
    """Separates the tensors from what the file holds beside them."""
    outer = {}
    if isinstance(checkpoint, Mapping) and 'state_dict' in checkpoint:
        outer = {key: part for key, part in checkpoint.items() if key != 'state_dict'}
        checkpoint = checkpoint['state_dict']
    if not isinstance(checkpoint, Mapping) or not checkpoint:
        raise ValueError(
            'expected a state dict, or a dict with one as "state_dict", got '
            f'{type(checkpoint).__name__}'
            + (' without entries' if isinstance(checkpoint, Mapping) else '')
        )
    for key, value in checkpoint.items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            raise ValueError(
                'expected a state dict, or a dict with one as "state_dict"; '
                f'{key!r} is a {type(value).__name__}, not a tensor'
            )
    released = {key.removeprefix('module.'): v for key, v in checkpoint.items()}
    if len(released) < len(checkpoint):
        raise ValueError('some keys are there twice, with and without "module."')
    return released, outer


def _dataset_meta(meta: object) -> dict:
    """The class names of mmdet 2.x, where mmdet 3.x looks for them."""
    if not isinstance(meta, Mapping) or 'CLASSES' not in meta:
        return {}
    dataset_meta = dict(classes=meta['CLASSES'])
    if meta.get('PALETTE') is not None:
        dataset_meta['palette'] = meta['PALETTE']
    return dict(dataset_meta=dataset_meta)
