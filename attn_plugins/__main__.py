"""``python -m attn_plugins COMMAND``, and ``attn-plugins COMMAND``."""

import importlib
import sys

COMMANDS = {
    'configs': 'list, show and copy the configs of the papers',
    'new': 'write a config that trains on your own data',
    'doctor': 'say what is installed, and how to fix what is not',
    'check': 'look through all images and annotations of a config',
    'predict': 'run a model on images, folders and videos',
    'maps': 'draw the attention of a model in an image',
    'curves': 'draw losses and metrics of runs',
    'report': 'write one HTML page about a run',
    'export': 'write ONNX, TorchScript or torch.export files',
    'convert': "turn a checkpoint of the papers' released code into ours",
    'ops': "put mmcv's operators where mmcv looks for them",
}
WITHOUT_MM = ('configs', 'doctor', 'ops')  # run where mmengine is not installed


def main() -> int | None:
    command = sys.argv[1] if len(sys.argv) > 1 else '--help'
    if command in COMMANDS:
        sys.argv[:2] = [f'attn-plugins {command}']
        try:
            module = importlib.import_module(f'attn_plugins.cli.{command}')
        except ModuleNotFoundError as error:
            doctor = '`python -m attn_plugins doctor` shows how to install it'
            sys.exit(f'{sys.argv[0]}: error: needs {error.name}: {doctor}')
        if command in WITHOUT_MM:
            return module.main()
        from .mm.apis.launch import one_line_errors

        with one_line_errors():
            return module.main()
    listed = '\n'.join(f'  {name:8} {text}' for name, text in COMMANDS.items())
    usage = f'usage: python -m attn_plugins COMMAND ...\n\n{listed}'
    if command in ('-h', '--help'):
        print(usage)
        return 0
    print(f'{usage}\n\nattn-plugins: error: no command {command!r}', file=sys.stderr)
    return 2


if __name__ == '__main__':
    sys.exit(main())
