"""Training loops that go on after an interruption as if there had been none.

mmengine's own loop by iterations loads and augments all earlier batches again when it
resumes, its data workers have generators that start anew, and with none of them the
model and the augmentation share one. Here a sample is drawn with generators seeded by
its number in the run, so that it depends neither on the samples before it, which need
not be loaded, nor on the process that draws it.

Repairs mmengine 0.10; it can go when mmengine's loops skip batches without loading them
and its workers draw from generators that a checkpoint can restore.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dist import get_dist_info
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader, Dataset, IterableDataset

from .randomness import random_states, seed_generators, set_random_states

REGISTERED = ('ResumableEpochBasedTrainLoop', 'ResumableIterBasedTrainLoop')

# Its pass over the data set, and its place in that pass counted over all processes.
Number = tuple[int, int]


class NumberedBatches:
    """Gives each index of a batch sampler its number in the run.

    Args:
        batch_sampler: What draws the indices. Only they are drawn again to get to a
            later batch.
        endless: Goes on with the next pass at the end of one.
    """

    def __init__(self, batch_sampler: Any, endless: bool) -> None:
        self.batch_sampler = batch_sampler
        self.sampler = batch_sampler.sampler  # where mmengine's hooks look for it
        self.batch_size = batch_sampler.batch_size  # and FlexibleRunner for that
        self.endless = endless
        self.epoch = 0
        self.first = 0

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[list[tuple[Number, int]]]:
        epochs = itertools.count(self.epoch) if self.endless else [self.epoch]
        batches = itertools.chain.from_iterable(map(self._one_pass, epochs))
        return itertools.islice(batches, self.first, None)

    def _one_pass(self, epoch: int) -> Iterator[list[tuple[Number, int]]]:
        if hasattr(self.sampler, 'set_epoch'):
            self.sampler.set_epoch(epoch)
        rank, world_size = get_dist_info()
        # As samplers deal the samples out: 4 processes of one image number their images
        # like one process of four.
        places = itertools.count(rank, world_size)
        for batch in self.batch_sampler:
            yield [((epoch, next(places)), index) for index in batch]
        if next(places) == rank:
            raise ValueError('the sampler of train_dataloader gave not one batch')


class SeededSamples:
    """Draws samples with generators seeded by (seed, number), and puts these back."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __call__(self, batch: list[tuple[Number, int]]) -> list:
        states = random_states()
        samples = []
        for number, index in batch:
            seed_generators(self.seed, *number)
            samples.append(self.dataset[index])
        set_random_states(states)
        return samples


class ResumableDataLoader(DataLoader):
    """Does what a given loader does, from any batch on, with seeded samples."""

    def __init__(self, loader: DataLoader, endless: bool) -> None:
        if loader.batch_sampler is None or isinstance(loader.dataset, IterableDataset):
            raise ValueError(
                'train_dataloader must draw batches of indices to be resumable: give '
                'it a batch_size, and a data set that takes indices'
            )
        vars(self).update(
            vars(loader),
            batch_sampler=NumberedBatches(loader.batch_sampler, endless),
            # Starting workers draws a number, from the model's generator by default.
            generator=torch.Generator(),
        )

    def __iter__(self) -> Iterator:
        """Starts the workers at the first batch, when it is known which one that is."""
        yield from super().__iter__()


class BatchesAfter:
    """Yields None for the first batches, and then what a loader yields.

    The stock loop takes the batches before the resumed one to throw them away: mmengine
    one by one, its maintained fork all at once.
    """

    def __init__(self, loader: ResumableDataLoader, first: int) -> None:
        self.left = first
        self.batches = iter(loader)

    def __iter__(self) -> Iterator:
        return self

    def __next__(self) -> Any:
        if self.left:
            return self.skip_iter(1)
        return next(self.batches)

    def skip_iter(self, number: int) -> None:
        self.left -= number


class _Resumable:
    """What the loops share."""

    endless: bool

    def __init__(
        self, runner: Runner, dataloader: DataLoader | dict, *args, **kwargs
    ) -> None:
        self._runner = runner
        self._sampler_seed = self._seed
        if isinstance(dataloader, dict):
            dataloader = runner.build_dataloader(dataloader, seed=self._sampler_seed)
        loader = ResumableDataLoader(dataloader, self.endless)
        super().__init__(runner, loader, *args, **kwargs)

    @property
    def _seed(self) -> int:
        """The seed of the run, which all processes share."""
        own = self._runner._randomness_cfg.get('diff_rank_seed', False)
        return self._runner.seed - (get_dist_info()[0] if own else 0)

    def run(self) -> torch.nn.Module:
        # Where the config has no seed, resuming has brought that of the first start.
        sampler = self.dataloader.batch_sampler.sampler
        if getattr(sampler, 'seed', None) == self._sampler_seed:
            sampler.seed = self._seed
        # torch asks a data set that has this for whole batches. A wrapper would hide
        # the data set from the hooks that change its pipeline.
        dataset = self.dataloader.dataset
        dataset.__getitems__ = SeededSamples(dataset, self._seed)
        return super().run()


@LOOPS.register_module()
class ResumableIterBasedTrainLoop(_Resumable, IterBasedTrainLoop):
    """``IterBasedTrainLoop`` that resumes at once and exactly, for any config::

        train_cfg = dict(type='ResumableIterBasedTrainLoop')
        default_hooks = dict(checkpoint=dict(type='ResumableCheckpointHook'))

    Together they give the weights of a run without an interruption bit for bit where
    the operators are deterministic, as they are on a CPU with as many threads as
    before. The number of data workers does not matter and may change. With the number
    of processes, the batch size or the data set, the rest of the run changes.

    Random numbers must come from the generators of torch, numpy or python, as in all
    transforms of mmcv, mmdet, mmseg and mmpretrain. Transforms that keep earlier images
    (mmdet's ``CachedMosaic`` and ``CachedMixUp``) depend on what was drawn before.

    Args:
        runner: As in the stock loop.
        dataloader: As in the stock loop.
        *args: As in the stock loop.
        **kwargs: As in the stock loop.

    Raises:
        ValueError: If the data loader draws no batches of indices.
    """

    endless = True

    def run(self) -> torch.nn.Module:
        self.dataloader.batch_sampler.first = self._iter
        self.dataloader_iterator = BatchesAfter(self.dataloader, self._iter)
        return super().run()


@LOOPS.register_module()
class ResumableEpochBasedTrainLoop(_Resumable, EpochBasedTrainLoop):
    """``EpochBasedTrainLoop`` with the samples of ``ResumableIterBasedTrainLoop``.

    It goes on from the ends of epochs, where the stock hook saves.

    Args:
        runner: As in the stock loop.
        dataloader: As in the stock loop.
        *args: As in the stock loop.
        **kwargs: As in the stock loop.

    Raises:
        ValueError: If the data loader draws no batches of indices.
    """

    endless = False

    def run_epoch(self) -> None:
        self.dataloader.batch_sampler.epoch = self._epoch
        super().run_epoch()
