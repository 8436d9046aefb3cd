"""Writes configs/metafile.yml: what the catalogue, the model zoo and mim know.

    python tools/metafile.py                # adds new configs, drops deleted ones
    python tools/metafile.py NAME [...]     # counts these again
    python tools/metafile.py --all          # counts every config again (10 minutes)

Printed figures and tables are read from the comment at the head of each config, which
is the one place to correct them. Parameters and multiply-accumulates are counted as by
``tools/complexity.py --models``.
"""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import yaml
from complexity import build_model, count, forward_model, load_model_config
from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[1]
METAFILE = ROOT / 'configs/metafile.yml'
HEAD = """\
# Written by tools/metafile.py; read by `python -m attn_plugins configs` and by mim.
# "printed ..." under Metrics is what the paper prints. Nothing there was measured here,
# and there are no weights. "FLOPs" are multiply-accumulates, as OpenMMLab counts them,
# of inference on one image of "Image Size" (height x width).
"""

EA_PAPER = dict(
    Title='Beyond Self-attention: External Attention using Two Linear Layers for '
    'Visual Tasks',
    URL='https://arxiv.org/abs/2105.02358',
)
# Collection -> document, paper.
COLLECTIONS = {
    'External attention': ('external_attention', EA_PAPER),
    'EAMLP': ('eamlp', EA_PAPER),
    'LESA': (
        'lesa',
        dict(
            Title='Locally Enhanced Self-Attention: Combining Self-Attention and '
            'Convolution as Local and Context Terms',
            URL='https://arxiv.org/abs/2107.05637',
        ),
    ),
    'GSA': (
        'gsa',
        dict(
            Title='Global Self-Attention Networks for Image Recognition',
            URL='https://arxiv.org/abs/2010.03019',
        ),
    ),
}
DATASETS = {
    'ade20k': 'ADE20K',
    'cityscapes': 'Cityscapes',
    'voc': 'Pascal VOC 2012',
    'camvid': 'CamVid',
    'demo': 'demo',
    'coco': 'COCO',
    'in1k': 'ImageNet-1k',
    'cifar100': 'CIFAR-100',
}
# As headers of configs write it -> task, metric.
FIGURES = {
    'mIoU': ('Semantic Segmentation', 'mIoU'),
    'box': ('Object Detection', 'box AP'),
    'mask': ('Instance Segmentation', 'mask AP'),
    'top-1': ('Image Classification', 'top-1'),
    'top-5': ('Image Classification', 'top-5'),
}


def header(name: str) -> str:
    """Returns the comment at the head of a config as one line."""
    text = (ROOT / f'configs/{name}.py').read_text()
    comment = re.match(r'(?:#.*\n)+', text)[0]
    return ' '.join(line.lstrip('# ') for line in comment.splitlines())


def collection(name: str) -> str:
    if 'gsa' in name:
        return 'GSA'
    if re.match('eamlp|mlp|t2t', name):
        return 'EAMLP'
    # In the files of a data set for segmentation no other paper has a row.
    segments = dataset(name) in ('ADE20K', 'Cityscapes', 'Pascal VOC 2012', 'CamVid')
    is_external = segments or '-ea_' in name or name.startswith('eanet')
    return 'External attention' if is_external else 'LESA'


def dataset(name: str) -> str:
    (found,) = {DATASETS[field] for field in name.split('_') if field in DATASETS}
    return found


def paper_table(text: str) -> str:
    """Returns the rows of the papers that a header names; '' if there is none."""
    if not re.search(
        r'(EA|LESA|GSA) paper, (Tables?|Figures?|section|appendix) ', text
    ):
        return ''
    number = r'(?:[IVX]+|\d)\b'
    names = re.findall(
        rf'(?:Tables?|Figures?) {number}(?:(?:, | to ){number})*',
        text.partition(' Recipe')[0],
    )
    return ', '.join(dict.fromkeys(names))


def results(name: str, text: str) -> list[dict]:
    """Lists the figures that a header gives as printed in the paper, by task."""
    metrics: dict[str, dict[str, float]] = {}
    for inside in re.findall(r'\(([^()]*?) printed', text):
        for number, word in re.findall(rf'([\d.]+) ({"|".join(FIGURES)})', inside):
            task, metric = FIGURES[word]
            metrics.setdefault(task, {})[f'printed {metric}'] = float(number)
    return [
        dict(Task=task, Dataset=dataset(name), Metrics=figures)
        for task, figures in metrics.items()
    ]


def image_size(cfg: Config) -> tuple[int, int]:
    """Returns the height and width that a model is trained or tested at."""
    if cfg.default_scope == 'mmseg':
        return tuple(cfg.model.data_preprocessor.size)
    scales = [
        step.get('crop_size') or step.get('scale')
        for step in cfg.test_dataloader.dataset.pipeline
        if 'Crop' in step['type'] or step['type'].endswith('Resize')
    ]
    scale = scales[-1]
    width, height = (scale, scale) if isinstance(scale, int) else scale
    if cfg.default_scope == 'mmdet':  # padded to the stride
        width, height = (-(-side // 32) * 32 for side in (width, height))
    return height, width


def facts(name: str) -> dict:
    """Lists what needs no building of the model."""
    text = header(name)
    cfg = load_model_config(name)
    metadata = {
        'Training Data': dataset(name),
        'Host': cfg.default_scope,
        'Image Size': '{} x {}'.format(*image_size(cfg)),
        'Paper Table': paper_table(text),
    }
    return {
        'Name': name,
        'In Collection': collection(name),
        'Config': f'configs/{name}.py',
        'Metadata': {key: value for key, value in metadata.items() if value},
        'Results': results(name, text),
    }


def cost(name: str) -> dict[str, int]:
    cfg = load_model_config(name)
    params, norm_params, macs = count(
        lambda: build_model(cfg), (1, 3, *image_size(cfg)), forward_model
    )
    return dict(Parameters=params + norm_params, FLOPs=macs)


def models(names: list[str], counted: dict[str, dict]) -> Iterator[dict]:
    for name in names:
        model = facts(name)
        if name not in counted:
            print(name, flush=True)
            counted[name] = cost(name)
        model['Metadata'].update(counted[name])
        if not model['Results']:
            del model['Results']
        yield model


def collections() -> list[dict]:
    return [
        dict(Name=name, Paper=dict(paper), README=f'docs/{stem}.md')
        for name, (stem, paper) in COLLECTIONS.items()
    ]


def read_costs() -> dict[str, dict]:
    if not METAFILE.exists():
        return {}
    read = yaml.safe_load(METAFILE.read_text())['Models']
    keys = ('Parameters', 'FLOPs')
    return {m['Name']: {key: m['Metadata'][key] for key in keys} for m in read}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = sorted(path.stem for path in (ROOT / 'configs').glob('*.py'))
    parser.add_argument('names', nargs='*', metavar='NAME', help='configs to count')
    parser.add_argument('--all', action='store_true', help='count all of them')
    args = parser.parse_args()
    if unknown := sorted(set(args.names) - set(names)):
        parser.error(f'there is no config {", ".join(unknown)}')
    warnings.filterwarnings('ignore')  # what mm says while it builds
    again = names if args.all else args.names
    counted = {k: v for k, v in read_costs().items() if k not in again}
    content = dict(Collections=collections(), Models=list(models(names, counted)))
    text = yaml.safe_dump(content, sort_keys=False, width=88)
    METAFILE.write_text(HEAD + text)


if __name__ == '__main__':
    main()
