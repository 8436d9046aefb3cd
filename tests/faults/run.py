"""Puts one deliberate fault after the other into a copy, and sees the tests find it.

    python tests/faults/run.py                          # the tests that are not slow
    python tests/faults/run.py --selection all -n 4     # all tests, four at a time
    python tests/faults/run.py --only 03 dead_bias      # faults by a part of the name
    python tests/faults/run.py --table                  # what was found so far

A fault is a patch of a line or two below a sentence that says what it breaks and a line
that names the tests that should find it. Results go to docs/results/faults.jsonl as
they come; what is in there is not run again.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ('attn_plugins', 'configs', 'docs', 'tests', 'tools')
SELECTIONS = {'default': ['-m', 'not slow'], 'all': []}
OUT = ROOT / 'docs/results/faults.jsonl'


def run_fault(patch: Path, selection: str) -> dict:
    """Runs the tests that a patch names on a copy of the tree that has it."""
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name, 'tree')
        copy_tree(tree)
        apply(patch, tree)
        started = time.monotonic()
        tests = re.search('^Found by: (.*)', patch.read_text(), re.M)[1].split()
        by = first_failure(tree, [*SELECTIONS[selection], *tests])
        seconds = round(time.monotonic() - started)
    fault = dict(fault=patch.stem, selection=selection, found=by is not None, by=by)
    return dict(**fault, seconds=seconds)


def copy_tree(tree: Path) -> None:
    caches = shutil.ignore_patterns('__pycache__', '.*cache')
    for part in PARTS:
        shutil.copytree(ROOT / part, tree / part, symlinks=True, ignore=caches)
    for file in filter(Path.is_file, ROOT.iterdir()):
        shutil.copy(file, tree)


def apply(patch: Path, tree: Path) -> None:
    # Where the line stands alone is enough: its neighbours may change.
    command = ['patch', '-p1', '-F2', '--batch', '--no-backup-if-mismatch', '-i', patch]
    result = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f'{patch.name} no longer applies: {result.stdout.strip()}')


def first_failure(tree: Path, arguments: list[str]) -> str | None:
    """Runs pytest; returns the test that failed, None if all passed."""
    data = os.environ.get('ATTN_PLUGINS_DATA', str(ROOT.parent / 'shared'))
    result = subprocess.run(
        [sys.executable, '-m', 'pytest', '-xq', '-rfE', '--tb=no', *arguments],
        cwd=tree,
        env={**os.environ, 'PYTHONPATH': str(tree), 'ATTN_PLUGINS_DATA': data},
        capture_output=True,
        text=True,
    )
    failed = re.search(r'^(?:FAILED|ERROR) (.+?)(?: - |$)', result.stdout, re.M)
    # 5: none of the tests is in the selection.
    if result.returncode not in (0, 5) and not failed:
        raise SystemExit(f'pytest failed:\n{result.stdout}{result.stderr}')
    return failed[1] if failed else None


def table(rows: list[dict]) -> str:
    lines = ['| fault | found by | s |', '|---|---|--:|']
    for row in sorted(rows, key=lambda row: row['fault']):
        by = f'`{row["by"].removeprefix("tests/")}`' if row['found'] else '**nothing**'
        lines.append(f'| {row["fault"]} | {by} | {row["seconds"]} |')
    found = sum(row['found'] for row in rows)
    return '\n'.join([*lines, '', f'{found} of {len(rows)} faults found.'])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--selection', choices=SELECTIONS, default='default')
    parser.add_argument('--only', nargs='+', default=[''], metavar='NAME')
    parser.add_argument('-n', '--jobs', type=int, default=2)
    parser.add_argument('--out', type=Path, default=OUT)
    parser.add_argument('--table', action='store_true', help='print, run nothing')
    args = parser.parse_args()
    patches = [
        patch
        for patch in sorted(Path(__file__).parent.glob('*.patch'))
        if any(name in patch.stem for name in args.only)
    ]
    rows = []
    if args.out.exists():
        rows = [json.loads(line) for line in args.out.read_text().splitlines()]
    done = {row['fault'] for row in rows if row['selection'] == args.selection}
    left = [patch for patch in patches if patch.stem not in done and not args.table]
    with ThreadPoolExecutor(args.jobs) as pool, args.out.open('a') as out:
        futures = [pool.submit(run_fault, patch, args.selection) for patch in left]
        for future in as_completed(futures):
            row = future.result()
            print(row['fault'], '-', row['by'] or 'NOT FOUND', flush=True)
            print(json.dumps(row), file=out, flush=True)
            rows.append(row)
    names = {patch.stem for patch in patches}
    rows = [r for r in rows if r['selection'] == args.selection and r['fault'] in names]
    print(table(rows))
    return sum(not row['found'] for row in rows)


if __name__ == '__main__':
    sys.exit(main())
