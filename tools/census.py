"""Which stock configs work with this mmcv? Each model of the frameworks, built and run.

    python tools/census.py run --out FILE.jsonl               # with compiled mmcv
    python tools/census.py run --out OTHER.jsonl              # in another environment
    python tools/census.py compare FILE.jsonl OTHER.jsonl

Takes the configs that the installed frameworks bring along, without their weights.
Configs whose models are the same but for numbers of classes and normalising share one
run: mmdet predicts with score thresholds of 0, so that boxes get to nms, and plain
detectors give a loss and its gradients; mmseg predicts; mmpretrain gives its plain
output. All on the CPU and on the smallest image that works, with random weights.

Every run is a process of its own and adds one row to FILE.jsonl: what worked, what did
not and why, and which operators of mmcv._ext were called. What has a row is not run
again, so that an interrupted census goes on when the command is given again. Needs no
attn_plugins.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import json
import logging
import multiprocessing
import os
import resource
import time
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

os.environ['HF_HUB_OFFLINE'] = '1'

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.registry import MODELS, init_default_scope

HOSTS = ('mmdet', 'mmseg', 'mmpretrain')
MEMORY_LIMIT = 12 * 10**9
WEIGHTS = ('init_cfg', 'pretrained')
SAME_OPERATORS = ('num_classes', 'class_weight', 'data_preprocessor')

Row = dict  # host, configs, ok: modes, errors: by mode, seconds, operators


def without(node, keys: Collection[str]):
    """The config without these keys, at any depth."""
    if isinstance(node, dict):
        return {k: without(v, keys) for k, v in node.items() if k not in keys}
    if isinstance(node, (list, tuple)):
        return type(node)(without(value, keys) for value in node)
    return node


def prepared(node, testing: bool = False):
    """The model's config: nothing to download, no box too bad for nms, few kept."""
    if isinstance(node, dict):
        node = {k: prepared(v, testing or k == 'test_cfg') for k, v in node.items()}
        if testing and 'score_thr' in node:
            node['score_thr'] = 0.0
        if 'max_per_img' in node:
            node['max_per_img'] = min(20, node['max_per_img'])
        return node
    if isinstance(node, (list, tuple)):
        return type(node)(prepared(value, testing) for value in node)
    if isinstance(node, str):
        node = 'BN' if node in ('SyncBN', 'MMSyncBN') else node
        return None if node.startswith('http') else node
    return node


def values(node, keys: Collection[str]) -> Iterator:
    """All that stands under these keys, at any depth."""
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key in keys)
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for value in node:
            yield from values(value, keys)


def first_line(error: BaseException) -> str:
    return f'{type(error).__name__}: {error}'.splitlines()[0][:300]


def config_folder(host: str) -> Path:
    return Path(find_spec(host).submodule_search_locations[0], '.mim', 'configs')


def find_groups(host: str) -> list[Row]:
    """Empty rows, one for the configs of each model; one of every folder first."""
    groups, met = {}, Counter()

    def turn(row: Row) -> int:
        kind = row['configs'][0].partition('/')[0]
        met[kind] += 1
        return met[kind]

    folder = config_folder(host)
    for path in sorted(folder.rglob('*.py')):
        name, errors = path.relative_to(folder).as_posix(), {}
        if '_base_' in path.parts:
            continue
        try:
            config = Config.fromfile(path, import_custom_modules=False).to_dict()
            if 'model' not in config:
                continue
            model = without(config['model'], WEIGHTS + SAME_OPERATORS)
            key = json.dumps(model, sort_keys=True, default=str)
        except Exception as error:
            key, errors = name, {'read': first_line(error)}
        row = dict(host=host, configs=[], ok=[], errors=errors, operators=[])
        groups.setdefault(key, row)['configs'].append(name)
    return sorted(groups.values(), key=turn)


# What is run, by host: a mode's name, and what does it on images of some size.


def detector_inputs(
    model: BaseModel, config: Config, size: int, training: bool
) -> dict:
    from mmdet.testing import demo_mm_inputs, demo_mm_proposals

    shape = (3, size, size)
    roi_head = getattr(model, 'roi_head', None)
    # Hybrid task cascade has its labels of pixels at stride 8.
    stride = 8 if getattr(roi_head, 'with_semantic', False) else 1
    batch = 2 if training else 1
    masks = any(values(config.get('train_dataloader', {}), ('with_mask',)))
    data = demo_mm_inputs(batch, shape, [3] * batch, 2, stride, masks, True)
    proposals = demo_mm_proposals([shape] * batch, 20)
    for sample, proposed in zip(data['data_samples'], proposals, strict=True):
        if not getattr(model, 'with_rpn', True):
            sample.proposals = proposed
        sample.gt_instances.labels.zero_()
    return model.data_preprocessor(data, training)


def detector_loss(model: BaseModel, config: Config, size: int) -> None:
    MessageHub.get_current_instance().update_info('epoch', 0)  # TOOD asks
    model.train()
    losses = model(**detector_inputs(model, config, size, True), mode='loss')
    model.parse_losses(losses)[0].backward()


def tracker_inputs(model: BaseModel, size: int) -> dict:
    from mmdet.testing import demo_track_inputs

    data = demo_track_inputs(1, 2, image_shapes=(3, size, size))
    for sample in data['data_samples'][0].video_data_samples:
        sample.set_metainfo(dict(ori_video_length=2))
    return model.data_preprocessor(data, False)


def mmdet_modes(model: BaseModel, config: Config) -> dict[str, Callable]:
    from mmdet.models import BaseDetector, BaseMOTModel, BaseReID, SemiBaseDetector

    if isinstance(model, BaseReID):
        return dict(tensor=lambda size: model(torch.rand(1, 3, 2 * size, size)))
    if isinstance(model, BaseMOTModel):
        return dict(
            predict=lambda size: model(**tracker_inputs(model, size), mode='predict')
        )
    if not isinstance(model, BaseDetector):
        return mmpretrain_modes(model, config)
    inputs = functools.partial(detector_inputs, model, config, training=False)
    modes = dict(predict=lambda size: model(**inputs(size), mode='predict'))
    if not isinstance(model, SemiBaseDetector):
        modes['loss'] = functools.partial(detector_loss, model, config)
    return modes


def mmseg_modes(model: BaseModel, config: Config) -> dict[str, Callable]:
    return dict(
        predict=lambda size: model(torch.rand(1, 3, size, size), mode='predict')
    )


def mmpretrain_modes(model: BaseModel, config: Config) -> dict[str, Callable]:
    channels = len(config.get('data_preprocessor', {}).get('mean', 'RGB'))
    return dict(tensor=lambda size: model(torch.rand(1, channels, size, size)))


MODES = dict(mmdet=mmdet_modes, mmseg=mmseg_modes, mmpretrain=mmpretrain_modes)


def image_sizes(host: str, config) -> list[int]:
    """The sizes to try, in turn."""
    if host == 'mmdet':
        return [128, *values(config.model, ('input_size',)), 320, 512]
    if host == 'mmseg':
        return [128, max(config.get('crop_size', [512]))]
    sizes = list(values(config.model, ('img_size',)))[:1] or [224]
    sizes += values(config.get('test_dataloader', {}), ('crop_size', 'scale'))
    return [max(size) if isinstance(size, (list, tuple)) else size for size in sizes]


def first_that_works(forward: Callable, sizes: list[int]) -> int:
    """Raises the error of the last size if none works."""
    for size in sizes[:-1]:
        try:
            forward(size)
            return size
        except Exception:
            continue
    forward(sizes[-1])
    return sizes[-1]


@contextlib.contextmanager
def recording() -> Iterator[set[str]]:
    """Gathers the names of the operators that are called meanwhile."""
    ext = importlib.import_module('mmcv._ext')
    called: set[str] = set()

    def recorder(name: str, function: Callable) -> Callable:
        def record(*args, **kwargs):
            called.add(name)
            return function(*args, **kwargs)

        return record

    if '__getattr__' in vars(ext):  # that of attn_plugins finds them when asked
        find = ext.__getattr__
        recorders = {'__getattr__': lambda name: recorder(name, find(name))}
    else:
        functions = {n: getattr(ext, n) for n in dir(ext) if not n.startswith('_')}
        recorders = {n: recorder(n, f) for n, f in functions.items() if callable(f)}
    with mock.patch.multiple(ext, **recorders):
        yield called


def build(row: Row) -> tuple[BaseModel, Config]:
    torch.manual_seed(0)
    config = Config.fromfile(config_folder(row['host']) / row['configs'][0])
    init_default_scope(config.get('default_scope', row['host']))
    if 'data_preprocessor' in config:
        config.model.setdefault('data_preprocessor', config.data_preprocessor)
    model = without(config.model, (*WEIGHTS, 'batch_augments'))
    model = MODELS.build(ConfigDict(prepared(model)))
    model.eval()
    for parameter in model.parameters():  # some hold whatever was in memory
        parameter.data.nan_to_num_(0, 0, 0).clamp_(-1, 1)
    return model, config


def examine(row: Row) -> Iterator[Row]:
    """Builds and runs the model of a row, and gives the row after each mode."""
    with recording() as called:
        try:
            model, config = build(row)
        except Exception as error:
            row['errors']['build'] = first_line(error)
            yield row
            return
        sizes = image_sizes(row['host'], config)
        for mode, forward in MODES[row['host']](model, config).items():
            try:
                with torch.set_grad_enabled(mode == 'loss'):
                    sizes = [first_that_works(forward, sizes)]
                row['ok'].append(mode)
            except Exception as error:
                row['errors'][mode] = first_line(error)
            yield row | dict(operators=sorted(called))


def child(row: Row, connection) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT, MEMORY_LIMIT))
    os.chdir(config_folder(row['host']).parent)  # where distillation seeks its teachers
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    for state in examine(row):
        connection.send(state)


def run_apart(row: Row, time_limit: float) -> Row:
    """Examines in a process of its own, so that no model ends the census."""
    context = multiprocessing.get_context('fork')  # the frameworks are imported already
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(row, sender), daemon=True)
    start, ended = time.monotonic(), False
    process.start()
    sender.close()
    while receiver.poll(max(0, start + time_limit - time.monotonic())):
        try:
            row = receiver.recv()
        except EOFError:
            ended = True
            break
    if not ended:
        process.kill()
    process.join()
    if not ended:
        row['errors']['run'] = f'no end within {time_limit:g} s'
    elif process.exitcode:
        row['errors']['run'] = f'the process ended with {process.exitcode}'
    return row | dict(seconds=round(time.monotonic() - start, 1))


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(out: Path, hosts: Collection[str], time_limit: float) -> None:
    warnings.simplefilter('ignore')
    logging.disable()
    torch.set_num_threads(1)  # before the first fork
    for host in HOSTS:
        importlib.import_module(f'{host}.models')
    known = {(r['host'], r['configs'][0]) for r in read(out)} if out.exists() else ()
    for host in hosts:
        rows = [r for r in find_groups(host) if (host, r['configs'][0]) not in known]
        print(f'{host}: {len(rows)} models to run', flush=True)
        for row in rows:
            if not row['errors']:
                row = run_apart(row, time_limit)
            with out.open('a') as file:
                print(json.dumps(row), file=file)


def by_config(rows: list[Row], host: str) -> dict[str, Row]:
    return {name: r for r in rows if r['host'] == host for name in r['configs']}


def lost(before: Row, after: Row) -> list[str]:
    """The modes that no longer work, with their errors."""
    modes = [mode for mode in before['ok'] if mode not in after['ok']]
    reasons = after['errors']
    other = next(iter(reasons.values()), 'not run')
    return [f'{mode}: {reasons.get(mode, other)}' for mode in modes]


def compare(compiled: list[Row], ours: list[Row]) -> None:
    for host in HOSTS:
        reference, other = by_config(compiled, host), by_config(ours, host)
        nothing = dict(ok=[], errors={})
        names = [name for name, row in reference.items() if row['ok']]
        losses = {n: lost(reference[n], other.get(n, nothing)) for n in names}
        losses = {name: modes for name, modes in losses.items() if modes}
        gained = [
            name
            for name, row in other.items()
            if lost(row, reference.get(name, nothing))
        ]
        calls = Counter(op for name in names for op in reference[name]['operators'])
        kept = len(names) - len(losses)
        print(f'{host}: {len(names)} of {len(reference)} work with the first, of these')
        print(f'  {kept} ({kept / max(1, len(names)):.1%}) with the second')
        for name, modes in losses.items():
            print(f'  lost: {name}:', *modes, sep='\n    ')
        for name in gained:
            print(f'  only with the second: {name}')
        for operator, count in calls.most_common():
            print(f'  {operator}: called by {count}')


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest='command', required=True)
    command = commands.add_parser('run', help='build and run the models')
    command.add_argument('--out', type=Path, required=True, help='rows are added here')
    command.add_argument('--host', nargs='+', choices=HOSTS, default=HOSTS)
    command.add_argument('--time-limit', type=float, default=120, help='s for a model')
    command = commands.add_parser('compare', help='say what works in both files')
    command.add_argument('files', nargs=2, type=Path, metavar='FILE')
    options = parser.parse_args(args)
    if options.command == 'run':
        run(options.out, options.host, options.time_limit)
    else:
        compare(*map(read, options.files))


if __name__ == '__main__':
    main()
