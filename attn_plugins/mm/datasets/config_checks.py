"""Checks of configs before anything is built: misspelt keys, types and options.

mmengine takes any key: a misspelt setting is added beside the right one and ignored, or
it fails after minutes. Here each gets one line that says what was probably meant.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any

from mmengine import registry
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import Registry
from mmengine.runner import Runner
from torch import nn

from .dataset_checks import closest, label_count

# What the runner reads from a config; any other name is for the config's own use.
RUNNER_SETTINGS = {
    *inspect.signature(Runner).parameters,
    'auto_scale_lr',
    'custom_imports',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'strategy',
    'sync_bn',
    'tta_model',
    'tta_pipeline',
}
# Of these, what is read only to train, validate or test.
SPLIT_SETTINGS = {
    split: {f'{split}_{part}' for part in ('dataloader', 'cfg', 'evaluator')}
    for split in ('train', 'val', 'test')
}
SPLIT_SETTINGS['train'] |= {'optim_wrapper', 'param_scheduler'}
ALBUMENTATIONS = ('Albu', 'Albumentations')  # their `transforms` are of that library
ROOTS = [item for item in vars(registry).values() if isinstance(item, Registry)]


class ConfigError(ValueError):
    """A config that asks for what does not exist, or contradicts itself."""


def check_options(cfg: Config, options: dict[str, Any]) -> None:
    """Checks that overridden settings exist, as mmengine adds what does not.

    A setting may be new where it cannot be a misspelt one: its class or the runner
    knows it, nothing is much like it, or nobody can tell.

    Raises:
        ConfigError: If not.
    """
    for key in options:
        _check_option(cfg, key, options)


def _check_option(cfg: Config, key: str, options: dict[str, Any]) -> None:
    here: Any = cfg
    names = key.split('.')
    for depth, name in enumerate(names):
        path = '.'.join(names[:depth])
        if isinstance(here, list | tuple):
            if not name.isdecimal() or int(name) >= len(here):
                raise ConfigError(
                    f'--cfg-options {key}: {path} is a list of {len(here)}, its '
                    f'entries are {path}.0 to {path}.{len(here) - 1}, got {name!r}'
                )
            here = here[int(name)]
        elif isinstance(here, dict | Config):
            if name not in here:
                if f'{path}.type' not in options:  # else it is of another class
                    problem = _misspelt(path, name, here, cfg.get('default_scope'))
                    if problem:
                        raise ConfigError(f'--cfg-options {key}: {problem}')
                return
            here = here[name]
        else:
            raise ConfigError(
                f'--cfg-options {key}: {path} is {here!r}, which has no settings'
            )


def _misspelt(path: str, name: str, here: Any, scope: str | None) -> str:
    """Says what is wrong with a new setting; nothing if that is not sure."""
    if not path:
        hint = closest(name, {*here, *RUNNER_SETTINGS})
        known = name in RUNNER_SETTINGS
        return '' if known else f'the config has no setting {name!r}{hint}'
    kind = _class_of(here, scope)
    known = _parameters(kind) if inspect.isclass(kind) else None
    if known is None or name in known:
        return ''
    hint = closest(name, {*here, *known})
    return f'{path} has no {name!r}{hint}' if hint else ''


def check_config(cfg: Config, *splits: str) -> None:
    """Checks for misspelt types and settings: unknown, and much like known ones.

    Of models only the large parts are looked at, whose builders surely take them from
    a registry as they are; of the rest settings of data sets and transforms.

    Args:
        cfg: The config.
        *splits: 'train', 'val' and 'test', those that are going to be used.

    Raises:
        ConfigError: If there is one; it names the place, and what is much like it.
    """
    scope = cfg.get('default_scope')
    if scope is None:
        return  # the registries of no host
    unused = {'tta_model', 'tta_pipeline'}  # part of the model and the data by now
    for split in SPLIT_SETTINGS.keys() - set(splits):
        unused |= SPLIT_SETTINGS[split]
    for section in sorted((RUNNER_SETTINGS - unused) & cfg.keys()):
        for path, item, inner in _typed(cfg[section], section, scope):
            if section == 'model' and not _is_large_part(path):
                continue
            kind = _class_of(item, inner)
            if kind is None:
                hint = closest(item['type'], _names(inner))
                if hint:  # without one it may be for a builder of its own
                    raise ConfigError(
                        f'{path}: the type {item["type"]!r} is not registered{hint} '
                        f'(scope {inner}; modules of yours go into custom_imports)'
                    )
            _check_keys(path, item, kind)


def type_name(item: Any) -> str:
    """Names the type in a config, be it text, with a scope or without, or a class."""
    kind = item.get('type') if isinstance(item, dict) else None
    if isinstance(kind, str):
        return kind.rpartition('.')[2]
    return getattr(kind, '__name__', '')


def _class_of(item: dict, scope: str | None) -> Any:
    kind = item.get('type')
    if isinstance(kind, str):
        return _find(kind, item.get('_scope_') or scope)
    return kind


def _typed(
    value: Any, path: str, scope: str | None
) -> Iterator[tuple[str, dict, str | None]]:
    """Yields place, dict and scope of all that is built, outermost first."""
    if isinstance(value, dict):
        scope = value.get('_scope_') or scope
        if 'type' in value:
            yield path, value, scope
        for key, item in value.items():
            # RandAugment takes keys out of its policies.
            if key == 'policies' or (
                key == 'transforms' and type_name(value) in ALBUMENTATIONS
            ):
                continue
            yield from _typed(item, f'{path}.{key}', scope)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _typed(item, f'{path}.{index}', scope)


def _is_large_part(path: str) -> bool:
    name = [part for part in path.split('.') if not part.isdecimal()][-1]
    return name in ('model', 'backbone', 'neck') or name.endswith('head')


@functools.cache
def _find(name: str, scope: str | None) -> Any:
    # Not `switch_scope_and_registry`, which warns of hosts that lack a registry.
    if scope:
        with contextlib.suppress(Exception):  # hosts refuse versions with any
            importlib.import_module(f'{scope}.registry')
    found = (root.children.get(scope, root).get(name) for root in ROOTS)
    return next((kind for kind in found if kind is not None), None)


def _names(scope: str | None) -> set[str]:
    names = set()
    for root in ROOTS:
        names.update(root.module_dict)
        if scope in root.children:
            names.update(root.children[scope].module_dict)
    return names


def _check_keys(path: str, item: dict, kind: Any) -> None:
    checked = inspect.isclass(kind) and (
        issubclass(kind, nn.Module | BaseDataset) or hasattr(kind, 'transform')
    )
    known = _parameters(kind) if checked else None
    if known is None:
        return
    for key in item:
        # Without a name like it, it is left to the class, which may do other things
        # with what it does not name than to hand it to its base.
        hint = '' if key in known or key == 'type' else closest(key, known)
        if hint:
            raise ConfigError(f'{path}: {kind.__name__} has no setting {key!r}{hint}')


def _parameters(kind: type) -> set[str] | None:
    """Names the arguments of a class, of its bases too if it hands others on.

    None if they cannot be told.
    """
    known: set[str] = set()
    for base in kind.__mro__:
        if '__init__' not in vars(base):
            continue
        try:
            parameters = inspect.signature(base.__init__).parameters.values()
        except ValueError:  # written in C
            return None
        known.update(p.name for p in parameters if p.kind is not p.VAR_KEYWORD)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return known - {'self', 'args'}
        if not _hands_on(base.__init__):
            return None
    return None


def _hands_on(init: Any) -> bool:
    """Whether a constructor hands all of its ``**kwargs`` to that of its base."""
    try:
        source = inspect.getsource(init)
    except (OSError, TypeError):
        return False
    handed = re.search(r'super\(\)\.__init__\([^()]*\*\*kwargs', source)
    return handed is not None and not re.search(r'kwargs\.pop|del kwargs', source)


def default_of(item: dict, name: str, scope: str | None) -> Any:
    """Returns the default of an argument of a dict's type, or None."""
    kind = _class_of(item, scope)
    for base in kind.__mro__ if inspect.isclass(kind) else ():
        init = vars(base).get('__init__')
        found = inspect.signature(init).parameters.get(name) if init else None
        if found is not None and found.default is not found.empty:
            return found.default
    return None


def classes_of(dataset: dict, scope: str | None) -> Sequence[str] | None:
    """Returns the names of the classes of a data set; None if it does not say."""
    kind = _class_of(dataset, scope)
    given = dataset.get('metainfo') or {}
    classes = given.get('classes', given.get('CLASSES', dataset.get('classes')))
    if classes is None:
        classes = getattr(kind, 'METAINFO', {}).get('classes')
    return None if isinstance(classes, str) else classes  # a file of names


def check_classes(cfg: Config, datasets: Sequence[dict]) -> None:
    """Checks that the heads have as many classes as the data.

    Raises:
        ConfigError: If not.
    """
    model = cfg.get('model') or {}
    if model.get('language_model') or model.get('text_encoder'):
        return  # classes are words then
    for path, head in _class_heads(model):
        for dataset in datasets:
            if 'Panoptic' in type_name(dataset):
                continue  # things and stuff have heads of their own
            classes = classes_of(dataset, cfg.get('default_scope'))
            if classes and not _fits(path, head, len(classes)):
                raise ConfigError(
                    f'{path} has num_classes={head["num_classes"]} and the data set '
                    f'{type_name(dataset)} {len(classes)} classes '
                    f'({", ".join(classes[:4])}, ...): set num_classes of the heads, '
                    'or classes in its metainfo'
                )


def _fits(path: str, head: dict, classes: int) -> bool:
    outputs = label_count(head['num_classes'], head.get('out_channels'))
    # A classifier may know more classes than the data shows (ImageNet-21k).
    return outputs >= classes if path == 'model.head' else outputs == classes


def _class_heads(model: dict) -> Iterator[tuple[str, dict]]:
    """Yields the heads whose classes are those of the data."""
    for place in (
        'decode_head',
        'auxiliary_head',
        'head',
        'bbox_head',
        'roi_head.bbox_head',
        'roi_head.mask_head',
    ):
        found: Any = model
        for name in place.split('.'):
            found = found.get(name) if isinstance(found, dict) else None
        for head in found if isinstance(found, list | tuple) else [found]:
            if place == 'auxiliary_head' and type_name(head) != 'FCNHead':
                continue  # others may learn edges, say
            if isinstance(head, dict) and isinstance(head.get('num_classes'), int):
                yield f'model.{place}', head
