"""Interrupted runs give the weights of whole ones, and no checkpoint is ever lost."""

import errno
import os
import random
import resource
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('mmengine')
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, Sampler

import attn_plugins  # noqa: F401 (registers)
from attn_plugins.mm.engine import loops
from attn_plugins.mm.engine.atomic_write import TEMPORARY, write_atomically
from attn_plugins.mm.engine.errors import WriteError

SIZE = 11
loaded: list[int] = []


@DATASETS.register_module()
class DrawnNumbers(BaseDataset):
    """Augments with all three generators, now and then with a second sample."""

    def load_data_list(self) -> list[dict]:
        return [dict(value=float(i)) for i in range(SIZE)]

    def prepare_data(self, index: int) -> dict | None:
        loaded.append(index)
        if not self.test_mode and np.random.rand() < 0.2:
            return None  # BaseDataset takes another one
        value = self.get_data_info(index)['value']
        noise = (np.random.rand(), random.random(), torch.rand(()).item())
        return dict(inputs=torch.tensor([value, *noise]))


class Model(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(4, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 1)
        )

    def forward(self, inputs, mode='tensor'):
        out = self.net(torch.stack(inputs))
        return dict(loss=out.square().mean()) if mode == 'loss' else list(out)


class Score(BaseMetric):
    """Draws numbers itself, and gets better with every iteration."""

    iteration = 0

    def process(self, data_batch, data_samples) -> None:
        self.results.append(torch.rand(1).item())  # validation draws, too

    def compute_metrics(self, results) -> dict:
        return dict(score=Score.iteration)


class Stop(Hook):
    """Dies after an iteration."""

    priority = 'LOWEST'

    def __init__(self, after: int | None) -> None:
        self.after = after

    def after_train_iter(self, runner, *args, **kwargs) -> None:
        Score.iteration = runner.iter
        if runner.iter + 1 == self.after:
            raise KeyboardInterrupt


def train(folder, stop=None, resume=False, workers=0, epochs=None, seed=0, **options):
    """Trains for 12 iterations, or for some epochs."""
    loaded.clear()
    torch.manual_seed(seed or 0)
    # Serialising collects garbage, which takes far longer than the run.
    dataset = dict(type='DrawnNumbers', pipeline=[], serialize_data=False)
    loader = dict(batch_size=2, num_workers=workers, dataset=dataset)
    by = 'Epoch' if epochs else 'Iter'
    length = dict(max_epochs=epochs) if epochs else dict(max_iters=12)
    saving = dict(type='ResumableCheckpointHook', by_epoch=bool(epochs))
    cfg = dict(type=f'Resumable{by}BasedTrainLoop', **length)
    runner = Runner(
        Model(),
        str(folder),
        train_dataloader=dict(
            loader,
            sampler=dict(type='DefaultSampler' if epochs else 'InfiniteSampler'),
            drop_last=True,
        ),
        val_dataloader=dict(
            loader,
            num_workers=0,
            dataset=dict(dataset, test_mode=True),
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        val_evaluator=Evaluator([Score()]),
        val_cfg=dict(),
        train_cfg={**cfg, 'val_interval': 1 if epochs else 4, **options.pop('cfg', {})},
        optim_wrapper=dict(optimizer=dict(type='Adam', lr=0.1)),
        param_scheduler=[dict(type='PolyLR', end=12, by_epoch=False)],
        default_hooks=dict(
            checkpoint=dict(saving, interval=1 if epochs else 2, **options)
        ),
        custom_hooks=[Stop(stop)],
        randomness=dict(seed=seed),
        default_scope='mmengine',
        experiment_name=f'{folder.name}-{random.getrandbits(64)}',
        resume=resume,
        log_level='ERROR',
    )
    try:
        runner.train()
    except KeyboardInterrupt:
        assert stop
    return {key: value.clone() for key, value in runner.model.state_dict().items()}


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope='module')
def whole(tmp_path_factory) -> dict:
    """Weights of the run without an interruption."""
    return train(tmp_path_factory.mktemp('whole'))


@pytest.mark.parametrize('workers', [2])
def test_number_of_workers_does_not_matter(whole, tmp_path, workers):
    assert same(train(tmp_path / 'a', workers=workers), whole)
    assert not same(train(tmp_path / 'b', seed=1), whole)


@pytest.mark.parametrize('stop', [5, 8])
def test_interrupted_run_gives_the_same_weights(whole, tmp_path, stop):
    """After 5 an iteration is lost, after 8 a validation. Workers may change."""
    stopped = train(tmp_path, stop)
    assert not same(stopped, whole)
    assert same(train(tmp_path, resume=True, workers=stop == 5), whole)


def test_resuming_loads_no_earlier_sample(tmp_path):
    train(tmp_path, 10, cfg=dict(val_begin=99))
    before = len(loaded)
    train(tmp_path, resume=True, cfg=dict(val_begin=99))
    again = list(loaded)
    train(tmp_path / 'whole', cfg=dict(val_begin=99))
    assert again == loaded[before:]
    assert 4 <= len(again) < 10  # two batches, and what replaced dropped samples


def test_a_run_without_a_seed_goes_on_with_its_own(tmp_path):
    train(tmp_path, 7, seed=None)
    copy = tmp_path / 'copy'
    copy.mkdir()
    (copy / 'iter_6.pth').write_bytes((tmp_path / 'iter_6.pth').read_bytes())
    (copy / 'last_checkpoint').write_text(str(copy / 'iter_6.pth'))
    assert same(train(tmp_path, resume=True), train(copy, resume=True, seed=None))


def test_epochs(tmp_path):
    whole = train(tmp_path / 'whole', epochs=3)
    train(tmp_path / 'parts', 13, epochs=3)  # of 5 iterations each
    assert same(train(tmp_path / 'parts', resume=True, workers=2, epochs=3), whole)


def test_passes_over_a_finite_sampler_differ():
    class Indices(Sampler):
        def set_epoch(self, epoch):
            self.epoch = epoch

        def __iter__(self):
            return iter((self.epoch, 7, 8))

    sampler = BatchSampler(Indices(), 2, drop_last=False)
    batches = loops.NumberedBatches(sampler, endless=True)
    expected = [[((0, 0), 0), ((0, 1), 7)], [((0, 2), 8)]]
    expected += [[((1, 0), 1), ((1, 1), 7)], [((1, 2), 8)]]
    assert [batch for batch, _ in zip(batches, range(4), strict=False)] == expected
    batches.first = 3
    assert next(iter(batches)) == expected[3]
    sampler.sampler = ()
    with pytest.raises(ValueError, match='not one batch'):
        next(iter(batches))


def test_processes_number_samples_like_one_process(monkeypatch):
    """Two processes of one image draw what one process of two draws."""
    found = []
    for rank in range(2):
        monkeypatch.setattr(loops, 'get_dist_info', lambda rank=rank: (rank, 2))
        sampler = BatchSampler(range(rank, 10, 2), 1, False)
        found += [b[0] for b in loops.NumberedBatches(sampler, endless=False)]
    assert sorted(found) == [((0, i), i) for i in range(10)]


def test_numbered_generators_differ():
    draws = set()
    for key in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)):
        loops.seed_generators(*key)
        draws |= {random.random(), np.random.rand(), torch.rand(()).item()}
    assert len(draws) == 12


def test_data_without_batches_is_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(3))

    for loader in (DataLoader(range(3), batch_size=None), DataLoader(Stream())):
        with pytest.raises(ValueError, match='give it a batch_size'):
            loops.ResumableDataLoader(loader, endless=True)


# Files


def checkpoints(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if not p.is_dir() and p.suffix != '.py'}


def test_checkpoints_load_safely_and_old_ones_go(tmp_path):
    train(tmp_path, max_keep_ckpts=2, save_best='score', rule='greater')
    best = 'best_score_iter_12.pth'
    kept = {'iter_10.pth', 'iter_12.pth', best, 'last_checkpoint'}
    assert checkpoints(tmp_path) == kept
    checkpoint = torch.load(tmp_path / 'iter_12.pth', weights_only=True)
    assert checkpoint['message_hub']['runtime_info']['best_ckpt'].endswith(best)
    (states,) = checkpoint['random_states']
    assert states.keys() >= {'torch', 'numpy', 'python'}


@pytest.mark.parametrize(
    ('name', 'fail'),
    [('iter_6.pth', 'write'), ('iter_6.pth', 'replace'), ('last_checkpoint', 'fsync')],
)
def test_full_disk_loses_nothing(whole, tmp_path, monkeypatch, name, fail):
    train(tmp_path, 5, max_keep_ckpts=1)
    before = {name: (tmp_path / name).read_bytes() for name in checkpoints(tmp_path)}
    assert before.keys() == {'iter_4.pth', 'last_checkpoint'}

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def failing(path, data):
        with monkeypatch.context() as patched:
            if Path(path).name == name and fail != 'write':
                patched.setattr(os, fail, full)
            elif Path(path).name == name:
                limit(len(data) // 2)
            try:
                write_atomically(path, data)
            finally:
                limit(resource.RLIM_INFINITY)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    with monkeypatch.context() as patched:
        for module in ('mm.engine.atomic_write', 'mm.engine.checkpoint_hook'):
            patched.setattr(f'attn_plugins.{module}.write_atomically', failing)
        with pytest.raises(WriteError, match=r'cannot be written .*make room'):
            train(tmp_path, resume=True, max_keep_ckpts=1)
    after = checkpoints(tmp_path)
    assert after - {'iter_6.pth'} == before.keys()
    assert all((tmp_path / name).read_bytes() == before[name] for name in before)
    assert same(train(tmp_path, resume=True, max_keep_ckpts=1), whole)
    assert checkpoints(tmp_path) == {'iter_12.pth', 'last_checkpoint'}


def test_damaged_checkpoints_and_leftovers_are_passed_over(whole, tmp_path, caplog):
    train(tmp_path, 7)
    last = tmp_path / 'iter_6.pth'
    last.write_bytes(last.read_bytes()[:-100])
    leftover = tmp_path / TEMPORARY.format('iter_8.pth')
    foreign = tmp_path / '.iter_8.tmp'
    for path in (leftover, foreign):
        path.write_bytes(b'half')
    assert same(train(tmp_path, resume=True), whole)
    assert foreign.exists()
    assert not leftover.exists()
    # A folder that was moved, and one whose first checkpoint has no last_checkpoint.
    (tmp_path / 'last_checkpoint').write_text('elsewhere/iter_12.pth')
    assert same(train(tmp_path, resume=True), whole)
    assert not loaded
    (tmp_path / 'last_checkpoint').unlink()
    assert same(train(tmp_path, resume=True), whole)
    assert not loaded


def test_a_run_in_the_folder_of_another_starts_anew(whole, tmp_path):
    """As with jobs that always pass --resume."""
    train(tmp_path, 7, seed=1)
    assert same(train(tmp_path / 'inner', resume=True), whole)


def test_checkpoints_in_another_folder_are_found(whole, tmp_path):
    """``out_dir`` holds a folder for every run."""
    run, options = tmp_path / 'run', dict(out_dir=str(tmp_path / 'out'))
    train(tmp_path / 'other', seed=1, **options)
    train(run, **options)
    (run / 'last_checkpoint').unlink()
    assert same(train(run, resume=True, **options), whole)
    assert not loaded


@pytest.mark.parametrize('code', [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_folder_that_cannot_be_flushed(tmp_path, monkeypatch, code):
    """Where the file system cannot do that, the file is as good as it gets."""

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, 'fsync', fsync)
    path = tmp_path / 'iter_2.pth'
    if code == errno.EIO:
        with pytest.raises(WriteError, match='cannot be written'):
            write_atomically(path, b'whole')
    else:
        write_atomically(path, b'whole')
    assert path.read_bytes() == b'whole'
    assert checkpoints(tmp_path) == {path.name}
