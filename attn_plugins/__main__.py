"""``python -m attn_plugins COMMAND``."""

import importlib
import sys

COMMANDS = {
    'configs': ('attn_plugins.configs', 'list and copy the configs of the papers'),
    'doctor': ('attn_plugins.doctor', 'say what is installed, and how to mend it'),
    'ops': ('attn_plugins.cli.ops', "put mmcv's operators where mmcv looks for them"),
}


def main() -> int | None:
    command = sys.argv[1] if len(sys.argv) > 1 else '--help'
    if command in COMMANDS:
        del sys.argv[1]
        return importlib.import_module(COMMANDS[command][0]).main()
    listed = '\n'.join(f'  {name:8} {text}' for name, (_, text) in COMMANDS.items())
    usage = f'usage: python -m attn_plugins COMMAND ...\n\n{listed}'
    if command in ('-h', '--help'):
        print(usage)
        return 0
    print(f'{usage}\n\nattn_plugins: error: no command {command!r}', file=sys.stderr)
    return 2


if __name__ == '__main__':
    sys.exit(main())
