"""Long runs that show that training survives.

    python tools/soak.py crash eanet        # killed 24 times, resumed each time
    python tools/soak.py crash lesa
    python tools/soak.py memory             # 2000 iterations: memory, open files
    python tools/soak.py resume             # how long resuming takes

Training runs in processes of its own, by the unmodified tools of mmseg and mmdet, with
one thread each. Every result is a line of JSON in the file that --out names, written
when it is known.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

# Before torch is imported, and for all training processes: sums are taken in the same
# order only with the same number of threads.
os.environ.update(OMP_NUM_THREADS='1', MKL_NUM_THREADS='1', PYTHONWARNINGS='ignore')

COMMANDS = {
    'crash': 'kills and resumes training, and compares the weights with a whole run',
    'memory': 'watches memory and open files of a long run',
    'resume': 'measures resuming late in a run, with the stock loop and with ours',
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest='command', required=True)
    for name, text in COMMANDS.items():
        module = importlib.import_module(f'soaks.{name}')
        command = commands.add_parser(
            name,
            help=text,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_options(command)
        command.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    try:
        print(args.run(args))
    except AssertionError as error:
        sys.exit(f'soak: error: {error}')


if __name__ == '__main__':
    main()
