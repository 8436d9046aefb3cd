"""Time and memory of attention layers and models beside what they replace.

    python tools/benchmark.py external --out docs/benchmarks
    python tools/benchmark.py external --sizes 64x64 97x129 --dtype bfloat16
    python tools/benchmark.py lesa              # beside the released formulation
    python tools/benchmark.py lesa --models     # LESA-ResNet-50 beside ResNet-50
    python tools/benchmark.py gsa               # beside convolution, axial, non-local
    python tools/benchmark.py gsa --models      # GSA-ResNet-50 beside ResNet-50
    python tools/benchmark.py models            # EA configs, their stock bases

Layers are first compared with what they are measured beside, or with the loops that the
paper prints, in float64: values, gradients, running statistics. If they differ, nothing
is measured. All candidates then take turns within one run, so that a drift of the
machine hits all of them.

Peak memory is what torch's allocator held above what it held before the call: the
input and the weights are not in it. On a CPU it is summed up from the memory events of
torch's profiler, on CUDA it is max_memory_allocated. "Kept" is what stays for backward,
without the parameters, the input and the output of the layer.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import warnings
from collections.abc import Sequence

from benchmarks.parity import ParityError

COMMANDS = {
    'external': 'external attention, its peers',
    'lesa': "LESA's context term, the released formulation; --models: backbones",
    'gsa': 'GSA, convolution, axial attention, non-local; --models: backbones',
    'models': 'training step of whole models with external attention',
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'command',
        choices=COMMANDS,
        metavar='COMMAND',
        help='; '.join(f'{name}: {text}' for name, text in COMMANDS.items()),
    )
    parser.add_argument(
        'options', nargs=argparse.REMAINDER, help='`COMMAND --help` lists them'
    )
    chosen = parser.parse_args(argv)
    # What mm says while it builds is nothing that a reader could do anything about.
    warnings.filterwarnings('ignore')
    # Only this one: a layer's benchmark needs torch, not all of mm.
    command = importlib.import_module(f'benchmarks.{chosen.command}')
    parser = argparse.ArgumentParser(
        prog=f'{parser.prog} {chosen.command}',
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_options(parser)
    args = parser.parse_args(chosen.options)
    try:
        command.run(args)
    except ParityError as error:
        sys.exit(f'benchmark: error: parity failed, nothing was measured: {error}')


if __name__ == '__main__':
    main()
