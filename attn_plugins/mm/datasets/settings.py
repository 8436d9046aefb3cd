"""What a config names: its data sets, their metrics, the types of its parts."""

from typing import Any

from mmengine.config import Config

SPLITS = ('train', 'val', 'test')


def type_name(node: Any) -> str:
    """Names the type of a part of a config: text, with a scope or not, or a class."""
    kind = node.get('type') if isinstance(node, dict) else None
    if isinstance(kind, str):
        return kind.rpartition('.')[2]
    return getattr(kind, '__name__', '')


def innermost(dataset: dict) -> dict:
    """Opens wrappers of one data set, such as ``RepeatDataset``."""
    while isinstance(dataset.get('dataset'), dict):
        dataset = dataset['dataset']
    return dataset


def datasets_of(cfg: Config, *splits: str) -> list[dict]:
    """Lists the data sets of the given splits, wrappers opened."""

    def leaves(dataset: dict) -> list[dict]:
        dataset = innermost(dataset)
        parts = dataset.get('datasets')
        return [leaf for part in parts for leaf in leaves(part)] if parts else [dataset]

    dataloaders = (cfg.get(f'{split}_dataloader') for split in splits)
    return [leaf for loader in dataloaders if loader for leaf in leaves(loader.dataset)]


def metrics_of(cfg: Config, split: str) -> list[dict]:
    """Lists the metrics of a split, one or several as the config has them."""
    evaluator = cfg.get(f'{split}_evaluator') or []
    return evaluator if isinstance(evaluator, list) else [evaluator]
