"""The hook that saves what an interrupted run needs to go on as if nothing happened.

Repairs mmengine 0.10; it can go when mmengine renames whole files into place before it
removes older ones, and saves the states of random number generators.
"""

import zipfile
from collections import deque
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, barrier, get_rank, is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner, find_latest_checkpoint

from .atomic_write import (
    BACKEND,
    AtomicBackend,
    remove_leftovers,
    write_atomically,
)
from .randomness import random_states, set_random_states

REGISTERED = ('ResumableCheckpointHook',)


@HOOKS.register_module()
class ResumableCheckpointHook(CheckpointHook):
    """``CheckpointHook`` that never leaves half a checkpoint, nor loses the last one.

    In place of the stock hook, with all its arguments::

        default_hooks = dict(checkpoint=dict(type='ResumableCheckpointHook'))

    - Checkpoints and ``last_checkpoint`` are written under another name, flushed to the
      disk and renamed. Older ones (``max_keep_ckpts``, ``save_best``) are removed after
      that, so there must be room for one more.
    - If a checkpoint cannot be written, training ends with an error that says so. It
      would be worse to go on: the work at risk would grow, and with it what is lost in
      the end, while now ``--resume`` goes on from the last checkpoint.
    - Checkpoints hold the states of the random number generators of every process.
      Resuming puts them back. Validation leaves them as it found them, because a run
      that was killed in it does not repeat it.
    - Resuming automatically from a damaged or missing file, which only other writers
      can leave, falls back to the newest whole checkpoint of the run, with a warning.

    For exact resuming it needs ``ResumableIterBasedTrainLoop`` (or the one for epochs).
    A checkpoint in the midst of accumulated gradients does not hold them.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._states: list[dict[str, Any]] | None = None  # of all processes
        self._before_val: dict[str, Any] | None = None

    # Resuming

    def before_run(self, runner: Runner) -> None:
        if runner._resume and runner._load_from is None:
            if is_main_process():
                self._point_to_whole_checkpoint(runner)
            barrier()

    def _point_to_whole_checkpoint(self, runner: Runner) -> None:
        """Corrects ``last_checkpoint``, from which mmengine is about to resume."""
        folder = Path(runner.work_dir)
        last = find_latest_checkpoint(str(folder))
        if last and _is_whole(Path(last)):
            return
        # Only where this run saves: a checkpoint beside that may be of another run.
        folders = [folder]
        if self.out_dir is not None:
            folders.append(Path(self.out_dir, folder.name))
        pattern = self.filename_tmpl.format('*')
        whole = [path for f in folders for path in f.glob(pattern) if _is_whole(path)]
        if whole:
            newest = max(whole, key=lambda path: path.stat().st_mtime)
            write_atomically(folder / 'last_checkpoint', str(newest).encode())
            runner.logger.warning(
                f'last_checkpoint names {last}, which is no whole checkpoint: '
                f'resuming {newest}'
            )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self._states = checkpoint.get('random_states')

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        if type(self.file_backend) is LocalBackend:
            self.file_backend = AtomicBackend()
            self.backend_args = dict(backend=BACKEND)
            if is_main_process():
                remove_leftovers(self.out_dir)
                remove_leftovers(runner.work_dir)
        if runner.iter and self._states:  # resumed, not loaded as a start
            self._restore(runner, self._states)

    def _restore(self, runner: Runner, states: list[dict[str, Any]]) -> None:
        if len(states) != runner.world_size:
            runner.logger.warning(
                f'the checkpoint is of {len(states)} processes, now there are '
                f'{runner.world_size}: their random numbers start anew'
            )
            return
        _set_states_of_process(states[get_rank()])

    # Validation

    def before_val(self, runner: Runner) -> None:
        self._before_val = _states_of_process()

    def after_val(self, runner: Runner) -> None:
        _set_states_of_process(self._before_val)
        self._before_val = None

    # Saving

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint['random_states'] = self._states

    def _gather_states(self) -> None:
        self._states = all_gather_object(self._before_val or _states_of_process())

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        self._gather_states()
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        kept = []
        if self.max_keep_ckpts > 0:
            # With the one to remove: after a crash before that, resuming removes it.
            kept = [*(s for s in self.keep_ckpt_ids if s != step), step]
            runner.message_hub.update_info('keep_ckpt_ids', kept)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            last = Path(runner.work_dir) / 'last_checkpoint'
            write_atomically(last, self.last_ckpt.encode())
        if self.max_keep_ckpts > 0:
            self.keep_ckpt_ids = deque(kept, self.max_keep_ckpts)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
            if is_main_process():
                for old in kept[: -self.max_keep_ckpts]:
                    self._remove(self.filename_tmpl.format(old))

    def _remove(self, name: str) -> None:
        path = self.file_backend.join_path(self.out_dir, name)
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):  # of deepspeed
            self.file_backend.rmtree(path)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not self.save_best:
            return
        self._gather_states()
        # The stock hook removes the best one so far before it writes the new one.
        if isinstance(self.file_backend, AtomicBackend):
            self.file_backend.hold_removals()
        super()._save_best_checkpoint(runner, metrics)
        if isinstance(self.file_backend, AtomicBackend):
            self.file_backend.remove_held()


def _states_of_process() -> dict[str, Any]:
    states = random_states()
    if torch.cuda.is_available():
        states['cuda'] = torch.cuda.get_rng_state()
    return states


def _set_states_of_process(states: dict[str, Any]) -> None:
    set_random_states(states)
    if 'cuda' in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states['cuda'].cpu())  # loading put it on the GPU


def _is_whole(path: Path) -> bool:
    """Tells whether a file has the index that torch writes at its very end."""
    return path.is_file() and zipfile.is_zipfile(path)
