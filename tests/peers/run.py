"""Runs mmseg's own unit tests on our backbones, their blocks and our decode head.

``python tests/peers/run.py`` fetches the source distribution of mmsegmentation, which
holds them (those of mmdet and mmpretrain do not), or takes one from a folder that it
is given, and runs them where they are unpacked.
"""

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PEERS = Path(__file__).parent
REQUIREMENT = 'mmsegmentation==1.2.2'
BACKBONE = 'test_backbones/test_resnet.py'
TESTS = {
    'LESAResNet': [f'{BACKBONE}::test_resnet_backbone'],
    'GSAResNet': [f'{BACKBONE}::test_resnet_backbone'],
    'blocks': [
        f'{BACKBONE}::{test}'
        for test in (
            'test_resnet_basic_block',
            'test_resnet_bottleneck',
            'test_resnet_res_layer',
        )
    ],
    'EAHead': [
        'test_heads/test_decode_head.py',
        'test_segmentors/test_encoder_decoder.py',
        'test_segmentors/test_seg_tta_model.py',
    ],
}


def fetch(folder: Path) -> None:
    """Downloads the source distribution into ``folder``."""
    options = ['--no-deps', '--no-build-isolation', '--no-binary', ':all:', '-q']
    command = [sys.executable, '-m', 'pip', 'download', *options, '-d', folder]
    subprocess.run([*command, REQUIREMENT], check=True)


def unpack(folder: Path, target: Path) -> Path:
    """Unpacks the tests alone: beside them the package would hide the installed one."""
    (archive,) = folder.glob('mmsegmentation-*.tar.gz')
    with tarfile.open(archive) as tar:
        tests = [member for member in tar if '/tests/' in member.name]
        tar.extractall(target, tests, filter='data')
    (tests,) = target.glob('mmsegmentation-*/tests')
    return tests


def run(subject: str, tests: Path) -> int:
    """Returns pytest's exit status for the tests of one subject."""
    print(f'\n--- {subject}', flush=True)
    path = os.pathsep.join([str(PEERS), os.environ.get('PYTHONPATH', '')])
    named = [f'tests/test_models/{test}' for test in TESTS[subject]]
    options = ['-p', 'swapped', '-p', 'no:cacheprovider', '-p', 'no:warnings', '-v']
    options += ['--show-capture=no']  # mmengine logs every parameter
    return subprocess.run(
        [sys.executable, '-m', 'pytest', '--rootdir', tests.parent, *options, *named],
        cwd=tests.parent,
        env={**os.environ, 'PYTHONPATH': path, 'SUBJECT': subject},
    ).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--sdist', type=Path, help='folder of the distribution')
    parser.add_argument('--subject', choices=TESTS, action='append', help='default all')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.sdist is None:
            fetch(folder)
        tests = unpack(args.sdist or folder, folder)
        failed = [s for s in args.subject or TESTS if run(s, tests)]
    print(f'\nfailed: {", ".join(failed) or "none"}')
    return len(failed)


if __name__ == '__main__':
    sys.exit(main())
