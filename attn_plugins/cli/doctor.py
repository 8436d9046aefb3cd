"""Says what is installed, what works, and which command fixes what does not.

Run ``python -m attn_plugins doctor``. The exit status is 0 only if the main job can
run: training EANet with mmseg. With ``--data`` it looks for the data sets instead.
"""

import argparse
import importlib
import re
import shlex
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version

import torch
from packaging.version import Version

from ..ops.backend import has_torchvision
from ..ops.link import compiled, mmcv_distributions, mmcv_folder
from ..registration import host_errors, register_all, registered_components
from .datasets import print_datasets
from .tables import print_table

# What to import for proof: `import mmseg` alone, for one, succeeds without what its
# models need. In the order in which problems are to be fixed.
REQUIRED = {
    'pkg_resources': 'pkg_resources',
    'mmengine': 'mmengine.runner',
    'mmcv': 'mmcv',
    'mmcv ops': 'mmcv.ops',
    'ftfy': 'ftfy',
    'regex': 'regex',
    'mmseg': 'mmseg.apis',
}
OPTIONAL = {
    'mmdet': 'mmdet.apis',
    'torchvision': 'torchvision',
    'mmpretrain': 'mmpretrain.models',
    'mmpretrain data': 'mmpretrain.datasets',
}


def torchvision_requirement(torch_version: str) -> str:
    """Returns what pip has to be asked for to get the torchvision of a torch.

    That of torch 2.N.P is 0.(N + 15).P, in the same build (``+cpu``, ``+cu126``, ...)
    where the index of PyTorch can be reached. pip takes a version with such a label for
    the newer one.
    """
    torch_version = Version(torch_version)
    build = torch_version.local or ''
    wanted = f'torchvision==0.{torch_version.minor + 15}.{torch_version.micro}'
    # Without --no-deps that of another build brings its torch along.
    words = ['--no-deps --force-reinstall', wanted]
    if re.fullmatch(r'cpu|cu\d+|rocm[\d.]+', build):
        words[1:1] = [f'--extra-index-url https://download.pytorch.org/whl/{build}']
    return ' '.join(words)


# What pip calls the modules that it knows by another name, or by a version that works.
PINNED = {
    'pkg_resources': 'setuptools==80.9.0',
    'torch': "'torch>=2.7'",
    'cv2': 'opencv-python-headless==4.14.0.94',
    # imgaug itself stopped before numpy 2; its heir asks for another OpenCV.
    'imgaug': (
        '--no-deps imaug==0.4.3 imageio==2.37.0 lazy-loader==0.4 scikit-image==0.25.2 '
        'tifffile==2025.5.10'
    ),
    'PIL': 'pillow',
    'yaml': 'pyyaml',
    'modelindex': 'model-index==0.1.11',
    'torchvision': torchvision_requirement(torch.__version__),
}
# OpenMMLab's modules come in two stacks: its own, and a maintained fork.
STACKS = {
    'onedl': {
        'mmengine': 'onedl-mmengine==0.10.12',
        'mmcv': 'onedl-mmcv==2.3.6',
        'mmdet': 'onedl-mmdetection==3.5.1',
        'mmseg': 'onedl-mmsegmentation==1.4.2',
        'mmpretrain': 'onedl-mmpretrain==1.3.6',
    },
    'OpenMMLab': {
        'mmengine': 'mmengine==0.10.7',
        'mmcv': 'mmcv-lite==2.1.0',
        'mmdet': 'mmdet==3.3.0',
        'mmseg': 'mmsegmentation==1.2.2',
        'mmpretrain': 'mmpretrain==1.2.0',
    },
}


@dataclass
class Finding:
    """One line of the table."""

    name: str
    version: str
    state: str  # ok, note, missing or broken
    detail: str = ''
    fix: str = ''
    required: bool = False

    @property
    def stops_the_main_job(self) -> bool:
        return self.required and self.state != 'ok'


def distributions() -> dict[str, str]:
    """Returns the name of the distribution that installed each module."""
    return {module: names[0] for module, names in packages_distributions().items()}


def stack_distributions() -> dict[str, dict[str, str]]:
    """Returns by stack the distributions of its modules that are installed."""
    found = packages_distributions()
    stacks = {stack: {} for stack in STACKS}
    for stack, pins in STACKS.items():
        for module, pin in pins.items():
            name = pin.partition('==')[0]
            # pip writes some names with an underscore; mmcv is there with and without
            # its compiled operators.
            for other in found.get(module, ()):
                if other.replace('_', '-') in (name, name.removesuffix('-lite')):
                    stacks[stack][module] = other.replace('_', '-')
    return {stack: names for stack, names in stacks.items() if names}


def stack_pins() -> dict[str, str]:
    """Returns the pins of the installed stack, or else of OpenMMLab's."""
    return STACKS[next(iter(stack_distributions()), 'OpenMMLab')]


def fix_command(module: str) -> str:
    """Returns the command that installs ``module`` in a version that works."""
    pip = f'{shlex.quote(sys.executable)} -m pip'
    install = f'{pip} install'
    pins = stack_pins()
    wants_opencv = module in pins and module != 'mmpretrain'
    if wants_opencv and distributions().get('cv2') == 'opencv-python-headless':
        # These ask for opencv-python, which would overwrite it.
        install += ' --no-deps'
    link = f'{shlex.quote(sys.executable)} -m attn_plugins ops link'
    if module == 'mmcv._ext':
        return link
    if module == 'mmcv':
        names = ' '.join(mmcv_distributions())
        clean = f'{pip} uninstall -y {names}; ' if names else ''
        return f'{clean}{install} {pins["mmcv"]} && {link}'
    command = f'{install} {({**PINNED, **pins}).get(module, module)}'
    if module == 'cv2':
        return f'{pip} uninstall -y opencv-python opencv-python-headless; {command}'
    return command


def culprit(module: str, error: BaseException) -> str:
    """Returns the module to install so that ``module`` imports again."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        if error.name == 'mmcv._ext':
            return error.name
        return error.name.partition('.')[0]
    if 'libGL' in str(error):
        return 'cv2'
    if 'torchvision' in str(error):
        return 'torchvision'
    # mmdet and mmseg refuse a version with `assert ..., 'MMCV==2.2.0 is used but ...'`.
    refused = str(error).partition('==')[0].lower()
    return refused if refused in STACKS['OpenMMLab'] else module


def examine(name: str, target: str, required: bool) -> Finding:
    """Imports ``target`` and says how that went."""
    module = target.partition('.')[0]
    distribution = distributions().get(module)
    found = version(distribution) if distribution else '-'
    try:
        importlib.import_module(target)
    except (Exception, SystemExit) as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == module
        state = 'missing' if absent else 'broken'
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        fix = fix_command(culprit(module, error))
        return Finding(name, found, state, '' if absent else text, fix, required)
    return Finding(name, found, 'ok', required=required)


def examine_python() -> Finding:
    found = '.'.join(map(str, sys.version_info[:3]))
    if (3, 10) <= sys.version_info < (3, 14):
        return Finding('Python', found, 'ok')
    return Finding('Python', found, 'note', 'tried with Python 3.10 to 3.13')


def examine_torch() -> Finding:
    found = torch.__version__
    if Version(found) >= Version('2.15'):
        return Finding('torch', found, 'note', 'newer than 2.14, which is tested')
    if Version(found) >= Version('2.7'):
        return Finding('torch', found, 'ok', required=True)
    fix = fix_command('torch')
    return Finding('torch', found, 'broken', 'older than 2.7', fix, required=True)


def examine_cuda() -> Finding:
    if not torch.cuda.is_available():
        return Finding('CUDA', '-', 'note', 'no device: everything runs on the CPU')
    return Finding('CUDA', torch.version.cuda, 'ok', torch.cuda.get_device_name())


def examine_operators() -> Finding:
    """Tells where mmcv's operators come from; call it if they load."""
    from mmcv.ops import get_compiling_cuda_version

    names = mmcv_distributions()
    has_binary = compiled(mmcv_folder())
    if len(names) > 1 and names[-1].endswith('-lite'):
        full, lite = names[0], names[-1]
        surplus, fix = full, fix_command('mmcv')
        if has_binary:
            pip = f'{shlex.quote(sys.executable)} -m pip'
            again = f'--force-reinstall --no-deps {full}=={version(full)}'
            surplus, fix = lite, f'{pip} uninstall -y {lite}; {pip} install {again}'
        text = f'{full} and {lite} overwrite each other: {surplus} has to go'
        return Finding('operators', '-', 'broken', text, fix, required=True)
    if not has_binary:
        detail = 'of attn_plugins.ops'
        if torch.cuda.is_available() and has_torchvision():
            detail += ", torchvision's where it has them"
        return Finding('operators', '', 'ok', detail)
    if torch.cuda.is_available() and get_compiling_cuda_version() == 'not available':
        text = 'compiled for CPUs alone; those of attn_plugins.ops run on a GPU too'
        return Finding('operators', '-', 'note', text, fix_command('mmcv'))
    return Finding('operators', '', 'ok', 'compiled')


def examine_torchvision_ops() -> Finding:
    """Tells whether torchvision is more than its Python part; call it if it imports."""
    from torchvision.extension import _has_ops

    if _has_ops():
        return Finding('torchvision ops', '', 'ok')
    text = 'do not load with this torch; nothing here needs them on a CPU'
    return Finding('torchvision ops', '-', 'note', text, fix_command('torchvision'))


def examine_registration() -> Finding:
    register_all()
    registered = registered_components()
    listed = '; '.join(
        f'{host}: {", ".join(names)}' for host, names in registered.items()
    )
    if 'EAHead' in registered.get('mmseg', ()):
        return Finding('registered', '', 'ok', listed, required=True)
    errors = '; '.join(f'{host}: {text}' for host, text in host_errors().items())
    text = errors or f'nothing in mmseg ({listed or "nor in mmengine"})'
    return Finding('registered', '', 'broken', text, required=True)


def examine_stack() -> Finding:
    stacks = stack_distributions()
    if len(stacks) == 2:
        doubled = sorted(set.intersection(*(set(names) for names in stacks.values())))
        names = sorted(name for names in stacks.values() for name in names.values())
        text = 'OpenMMLab and its fork are mixed'
        if doubled:
            text += f', and overwrite each other in {", ".join(doubled)}'
        text += ': uninstall all of both, then run this again'
        fix = f'{shlex.quote(sys.executable)} -m pip uninstall -y {" ".join(names)}'
        return Finding('stack', '-', 'broken', text, fix, required=bool(doubled))
    if not stacks:
        return Finding('stack', '-', 'note', 'neither OpenMMLab nor its fork is here')
    (stack,) = stacks
    detail = 'the maintained fork of OpenMMLab' if stack == 'onedl' else ''
    return Finding('stack', stack, 'ok', detail)


def examine_all() -> list[Finding]:
    findings = [examine_python(), examine_torch(), examine_cuda(), examine_stack()]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        findings += [examine(*item, required=True) for item in REQUIRED.items()]
        findings += [examine(*item, required=False) for item in OPTIONAL.items()]
        if 'mmcv.ops' in sys.modules:
            findings.append(examine_operators())
        if 'torchvision' in sys.modules:
            findings.append(examine_torchvision_ops())
        return [*findings, examine_registration()]


def commands(
    title: str, findings: Sequence[Finding], given: Sequence[Finding] = ()
) -> list[str]:
    """Lists the commands of ``findings`` that ``given`` lack, each once; [] if none."""
    lines = dict.fromkeys(finding.fix for finding in findings if finding.fix)
    for finding in given:
        lines.pop(finding.fix, None)
    return ['\n  '.join([title, *lines])] if lines else []


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='attn-plugins doctor',
        description='Says what is installed and how to fix what does not work.',
    )
    parser.add_argument(
        '--data',
        nargs='?',
        const='data',
        metavar='ROOT',
        help='look for the data sets in this folder (default: data) instead',
    )
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    if args.data is not None:
        print_datasets(args.data)
        return 0
    findings = examine_all()
    problems = [finding for finding in findings if finding.stops_the_main_job]
    notes = [finding for finding in findings if not finding.stops_the_main_job]
    verdict = 'cannot run yet' if problems else 'can run'
    print_table(
        ('part', 'version', 'state', 'detail'),
        ((f.name, f.version, f.state, f.detail) for f in findings),
    )
    sections = [
        '',
        *commands('To fix it, in this order:', problems),
        *commands('Not needed for segmentation; if you want it:', notes, problems),
        f'Training EANet with mmseg {verdict}.',
    ]
    print('\n\n'.join(sections).removeprefix('\n'))
    return 1 if problems else 0
