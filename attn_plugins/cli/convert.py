"""Turns a released checkpoint into one for the models here.

    python -m attn_plugins convert SRC DST
    python -m attn_plugins convert SRC DST --verbose            # every key
    python -m attn_plugins convert SRC DST --report keys.json   # the same, in JSON

It finds out which kind of checkpoint SRC is, and refuses what it does not know. Nothing
in SRC is executed. DST has the keys of our models, and in its meta data what a config
has to say.
"""

import argparse
import io
import json
import os
from collections import defaultdict

import torch

from ..mm.apis.launch import LaunchError
from ..mm.engine.atomic_write import write_atomically
from ..mm.engine.loading import load_from_local
from ..released.convert import Conversion, convert


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Convert a released checkpoint.')
    parser.add_argument('src', help='released checkpoint')
    parser.add_argument('dst', help='file to write')
    parser.add_argument(
        '--force', action='store_true', help='overwrite files that are there'
    )
    parser.add_argument(
        '--verbose', action='store_true', help='say what became of every key'
    )
    parser.add_argument('--report', metavar='FILE', help='write that to a JSON file')
    return parser.parse_args()


def check_paths(args: argparse.Namespace) -> None:
    """Refuses what would go wrong after the work, or would destroy something.

    Raises:
        LaunchError: If a file is missing, is there already, or is named twice.
    """
    if not os.path.isfile(args.src):
        raise LaunchError(f'there is no checkpoint {args.src}')
    taken = [args.src]
    for path in filter(None, (args.dst, args.report)):
        for other in taken:
            if os.path.realpath(path) == os.path.realpath(other):
                raise LaunchError(f'{path} and {other} are the same file, name another')
        if os.path.isdir(path):
            raise LaunchError(f'{path} is a folder, name a file in it')
        folder = os.path.dirname(path) or '.'
        if not os.access(folder, os.W_OK) or not os.path.isdir(folder):
            raise LaunchError(
                f'{path} cannot be written: {folder} is not a folder to write to'
            )
        if os.path.exists(path) and not args.force:
            raise LaunchError(f'{path} is there already, --force overwrites it')
        taken.append(path)


def account(conversion: Conversion) -> dict:
    """What became of every key, for the JSON file."""
    return dict(
        layout=conversion.layout.name,
        meta=conversion.meta,
        kept=conversion.kept,
        renamed=conversion.renamed,
        reshaped=conversion.reshaped,
        dropped=conversion.dropped,
        missing=conversion.missing,
        left_out=conversion.left_out,
    )


def print_account(conversion: Conversion, verbose: bool) -> None:
    """Counts the keys; names those that are not in the result, or all."""
    kept, renamed = conversion.kept, conversion.renamed
    dropped, missing = conversion.dropped, conversion.missing
    print(f'layout   {conversion.layout.name}')
    print(
        f'keys     {len(kept) + len(renamed) + len(dropped)} read: {len(kept)} keep '
        f'their names, {len(renamed)} renamed ({len(conversion.reshaped)} of them '
        f'reshaped), {len(dropped)} dropped, {len(missing)} missing'
    )
    reasons = defaultdict(list)
    for key, why in dropped.items():
        reasons[f'dropped  {{}}: {why}'].append(key)
    reasons['missing  {}: the model has its own'] = missing
    for text, keys in reasons.items():
        if keys:
            more = f' and {len(keys) - 1} like it' if len(keys) > 1 else ''
            print(text.format(keys[0] + more))
    if conversion.left_out:
        print(f'left out {", ".join(conversion.left_out)}: not part of the model')
    if verbose:
        for key in kept:
            print(f'  {key}')
        for key, new in renamed.items():
            note = ' (reshaped)' if key in conversion.reshaped else ''
            print(f'  {key} -> {new}{note}')
        for key in dropped:
            print(f'  {key} dropped')
        for key in missing:
            print(f'  {key} missing')


def main() -> None:
    args = parse_args()
    check_paths(args)
    conversion = read_and_convert(args.src)
    content = io.BytesIO()
    torch.save(dict(meta=conversion.meta, state_dict=conversion.state_dict), content)
    write_atomically(args.dst, content.getvalue())
    if args.report:
        text = json.dumps(account(conversion), indent=1)
        write_atomically(args.report, text.encode())
    print_account(conversion, args.verbose)
    for path in filter(None, (args.dst, args.report)):
        print(f'wrote    {path}')
    print(f'\nuse it so:\n{conversion.layout.usage(conversion.meta, args.dst)}')


def read_and_convert(src: str) -> Conversion:
    """Reads a checkpoint on the CPU and converts it.

    Raises:
        LaunchError: If it is damaged, or its layout is not known.
    """
    try:
        checkpoint = load_from_local(src, map_location='cpu')
    except RuntimeError as error:
        raise LaunchError(error) from None
    try:
        return convert(checkpoint)
    except ValueError as error:
        raise LaunchError(f'{src} cannot be converted: {error}') from None
