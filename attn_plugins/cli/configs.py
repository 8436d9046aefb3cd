"""The configs that come with the package: list them, look at them, copy them.

    python -m attn_plugins configs list --method LESA --dataset COCO
    python -m attn_plugins configs show mask-rcnn_lesa-r50_coco
    python -m attn_plugins configs copy mask-rcnn_lesa-r50_coco my_configs

Figures are the papers'; parameters and multiply-accumulates were counted. All of it
stands in ``metafile.yml`` beside the configs, which mim reads as well. Nothing here
needs mmengine, but ``show --resolved``.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from .tables import print_table

# A link to the folder in a checkout, a copy of it in a wheel.
FOLDER = Path(__file__).parents[1] / '.mim/configs'


@dataclass(frozen=True)
class Entry:
    """What the catalogue knows of a config.

    Attributes:
        name: Name of its file, without the suffix.
        method: Collection that it belongs to.
        host: ``'mmseg'``, ``'mmdet'`` or ``'mmpretrain'``.
        dataset: Data set that it trains on.
        table: Tables and figures of the paper that it is for, or nothing.
        printed: Figures as the paper prints them, by metric; none was measured here.
        image_size: Height and width that ``macs`` are counted at.
        params: Number of parameters.
        macs: Multiply-accumulates of inference on one image.
    """

    name: str
    method: str
    host: str
    dataset: str
    table: str
    printed: dict[str, float]
    image_size: str
    params: int
    macs: int

    @property
    def path(self) -> Path:
        return FOLDER / f'{self.name}.py'

    @property
    def figures(self) -> str:
        """The printed figures in one line."""
        return ', '.join(f'{value} {metric}' for metric, value in self.printed.items())

    def matches(self, method: str, dataset: str, host: str) -> bool:
        """Whether each property contains the text that is asked for."""
        asked = ((self.method, method), (self.dataset, dataset), (self.host, host))
        return all(text.lower() in value.lower() for value, text in asked)


def read_catalogue() -> dict[str, Entry]:
    """Reads all entries, by name."""
    models = yaml.safe_load((FOLDER / 'metafile.yml').read_text())['Models']
    return {model['Name']: _entry(model) for model in models}


def _entry(model: dict) -> Entry:
    metadata = model['Metadata']
    return Entry(
        name=model['Name'],
        method=model['In Collection'],
        host=metadata['Host'],
        dataset=metadata['Training Data'],
        table=metadata.get('Paper Table', ''),
        printed={
            metric.removeprefix('printed '): value
            for result in model.get('Results', ())
            for metric, value in result['Metrics'].items()
        },
        image_size=metadata['Image Size'],
        params=metadata['Parameters'],
        macs=metadata['FLOPs'],
    )


def find(name: str) -> Entry:
    """Finds an entry by its name, with or without ``.py``.

    Raises:
        ValueError: If there is none; it names the closest ones.
    """
    catalogue = read_catalogue()
    name = Path(name).name.removesuffix('.py')
    if name in catalogue:
        return catalogue[name]
    close = difflib.get_close_matches(name, catalogue, cutoff=0.5)
    hint = f'did you mean {" or ".join(close)}?' if close else 'see `list`'
    raise ValueError(f'there is no config {name}: {hint}')


def read_bases(path: str | Path) -> list[str]:
    """Reads ``_base_`` of a config, without running it."""
    for node in ast.parse(Path(path).read_text(encoding='utf-8')).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '_base_':
            bases = ast.literal_eval(node.value)
            return [bases] if isinstance(bases, str) else list(bases)
    return []


def local_files(path: Path) -> list[Path]:
    """Lists a config and those of its bases that are files beside it.

    Stock bases (``mmseg::...``) come with their framework.
    """
    files = [path]
    for base in read_bases(path):
        if '::' not in base:
            files += local_files(path.parent / base)
    return list(dict.fromkeys(files))


def stock_bases(path: Path) -> list[str]:
    """Follows ``_base_`` of a config up to the stock configs (``mmseg::...``)."""
    return [base for f in local_files(path) for base in read_bases(f) if '::' in base]


def copy(name: str, folder: str | Path = '.') -> list[Path]:
    """Copies a config, with the files it is based on, to a folder.

    Raises:
        ValueError: If the name is unknown, or a file of that name with other content is
            in the folder, which then stays as it is.
    """
    sources = local_files(find(name).path)
    targets = [Path(folder) / source.name for source in sources]
    texts = [source.read_text(encoding='utf-8') for source in sources]
    for target, text in zip(targets, texts, strict=True):
        if target.exists() and target.read_text(encoding='utf-8') != text:
            raise ValueError(f'{target} exists and differs: name another folder')
    Path(folder).mkdir(parents=True, exist_ok=True)
    for target, text in zip(targets, texts, strict=True):
        target.write_text(text, encoding='utf-8')
    return targets


def print_entries(entries: Iterable[Entry]) -> None:
    """Prints entries in columns."""
    header = ('config', 'framework', 'data', 'row', 'printed', '>params', '>MACs', 'at')
    rows = (
        (
            entry.name,
            entry.host,
            entry.dataset,
            entry.table,
            entry.figures,
            f'{entry.params / 1e6:.2f} M',
            f'{entry.macs / 1e9:.1f} G',
            entry.image_size,
        )
        for entry in entries
    )
    print_table(header, rows)


def facts(entry: Entry) -> str:
    """Sets out all that is known of one entry, a line each."""
    row = f'{entry.table}: ' if entry.table else ''
    return '\n'.join(
        (
            f'{entry.name}, {entry.method}, for {entry.host} on {entry.dataset}',
            f'paper       {row}{entry.figures or "no figure"}'
            + (' (printed there, not run here)' if entry.figures else ''),
            f'parameters  {entry.params:,}',
            f'MACs        {entry.macs:,} at {entry.image_size}',
            f'file        {entry.path}',
        )
    )


def resolved(path: Path) -> str:
    """Merges a config with all its bases; needs mmengine and the framework."""
    from mmengine.config import Config

    return Config.fromfile(path).pretty_text


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='attn-plugins configs',
        description='The configs that come with attn_plugins.',
    )
    commands = parser.add_subparsers(dest='command', required=True)
    lister = commands.add_parser('list', help='list configs, all or some')
    for name, example in (
        ('method', 'External attention, EAMLP, LESA, GSA'),
        ('dataset', 'ADE20K, COCO, ImageNet, ...'),
        ('host', 'mmseg, mmdet, mmpretrain'),
    ):
        lister.add_argument(f'--{name}', default='', help=f'any part of: {example}')
    shower = commands.add_parser('show', help='show a config and what is known of it')
    shower.add_argument('name')
    shower.add_argument(
        '--resolved', action='store_true', help='with all its bases merged in'
    )
    copier = commands.add_parser('copy', help='copy a config and its bases of ours')
    copier.add_argument('name')
    copier.add_argument('folder', nargs='?', default='.', metavar='DIR')
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_args(arguments)
    try:
        if args.command == 'list':
            entries = [
                entry
                for entry in read_catalogue().values()
                if entry.matches(args.method, args.dataset, args.host)
            ]
            if not entries:
                raise ValueError(
                    'no config is for all of that; `list --help` shows what there is'
                )
            print_entries(entries)
            print(f"{len(entries)} configs. Printed figures are the papers'.")
        elif args.command == 'show':
            entry = find(args.name)
            text = entry.path.read_text(encoding='utf-8')
            print(
                facts(entry),
                resolved(entry.path) if args.resolved else text,
                sep='\n\n',
            )
        else:
            targets = copy(args.name, args.folder)
            print(*(f'wrote {target}' for target in targets), sep='\n')
            host = find(args.name).host
            print(f'train it: python tools/train.py {targets[0]}')
            print(f'or, without a checkout: mim train {host} {targets[0]}')
    except (ValueError, OSError) as error:
        sys.exit(f'configs: error: {error}')
