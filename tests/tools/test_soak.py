"""The soak tests in short, with training in processes of its own; never a time."""

import importlib
import json
import subprocess
import sys
from contextlib import nullcontext

import pytest

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')


def soak(repo, out, *arguments) -> list[dict]:
    result = subprocess.run(
        [sys.executable, repo / 'tools/soak.py', *arguments, '--out', out],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.slow
def test_killed_training_ends_with_the_same_weights(repo, tmp_path):
    """At any moment, while a checkpoint is written, and of a full disk.

    By the moments that the seed draws, the first life saves, so that all comes in turn.
    """
    arguments = ('eanet', '--small', '--kills', '3', '--length', '16', '--interval=2')
    arguments += ('--seed', '39')
    rows = soak(repo, tmp_path / 'crash.jsonl', 'crash', *arguments)
    assert rows[1]['event'] == 'moment'
    assert rows[1]['status'] == -9
    deaths = rows[-1]['deaths']
    assert deaths.pop('full disk') == 1
    assert sum(deaths.values()) >= 3
    assert rows[-1]['equal_tensors'] > 200
    saved = [row['saved'] for row in rows if 'saved' in row]
    assert saved == sorted(saved)


@pytest.mark.slow
def test_memory_and_open_files_stay(repo, tmp_path):
    """A file left open by every iteration would be seen; of memory, 2 MB by each.

    What is less than that is for the long run.
    """
    arguments = ('--small', '--iterations', '40', '--warm-up', '16', '--every', '4')
    arguments += ('--max-slope', '2000')
    rows = soak(repo, tmp_path / 'memory.jsonl', 'memory', *arguments)
    assert rows[-1]['samples'] > 3


@pytest.mark.parametrize(
    ('megabytes', 'files', 'message'),
    [(1, 0, None), (10, 0, 'memory grew by 10.0 MB'), (0, 10, 'files went from 82 to')],
    ids=['little', 'memory', 'files'],
)
def test_what_grows_over_a_long_run_is_refused(
    repo, monkeypatch, megabytes, files, message
):
    """By so much in 1000 iterations."""
    monkeypatch.syspath_prepend(repo / 'tools')
    memory = importlib.import_module('soaks.memory')
    rows = [
        dict(
            iteration=i,
            processes=memory.PROCESSES,
            megabytes=500 + megabytes * i / 1000,
            files=80 + files * i // 1000,
        )
        for i in range(0, 2000, 10)
    ]
    summary = memory.summarize(rows, warm_up=199)
    with pytest.raises(AssertionError, match=message) if message else nullcontext():
        memory.check(summary)
