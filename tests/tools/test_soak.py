"""The soak tests in short, with training in processes of its own; never a time."""

import json
import subprocess
import sys

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


def test_killed_training_ends_with_the_same_weights(repo, tmp_path):
    """At any moment, while a checkpoint is written, and of a full disk."""
    arguments = ('eanet', '--small', '--kills', '3', '--length', '12', '--interval=2')
    rows = soak(repo, tmp_path / 'crash.jsonl', 'crash', *arguments)
    assert rows[1]['status'] == -9
    assert sum(rows[-1]['deaths'].values()) > 1
    assert rows[-1]['equal_tensors'] > 200
    saved = [row['saved'] for row in rows if 'saved' in row]
    assert saved == sorted(saved)


def test_memory_and_open_files_stay(repo, tmp_path):
    """A leak of one image or file per iteration would be seen, by far."""
    arguments = ('--iterations', '40', '--warm-up', '16', '--every', '4')
    *_, summary = soak(repo, tmp_path / 'memory.jsonl', 'memory', *arguments)
    low, high = summary['files']
    assert high - low <= 2  # a log, a checkpoint
    low, high = summary['megabytes']
    assert high - low < 100
