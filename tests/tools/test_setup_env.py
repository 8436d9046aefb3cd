"""`make setup` up to where the network begins; nothing here downloads or compiles."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = (
    'tools/setup_env.sh',
    'constraints.txt',
    'setup.py',
    'pyproject.toml',
    'attn_plugins/version.py',
)
PYTHON = sys._base_executable
# A Debian's own programs, and none of those that set-up has to look for.
PROGRAMS = ('bash', 'cat', 'dirname', 'flock', 'grep', 'mkdir', 'sha256sum')


@pytest.fixture
def checkout(tmp_path):
    """A copy of what set-up reads; its path has a space, as users' paths have."""
    folder = tmp_path / 'my checkout'
    for source in (*SOURCES, 'constraints-onedl.txt'):
        (folder / source).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / source, folder / source)
    return folder


@pytest.fixture
def programs(tmp_path):
    """A folder of programs to be used as the whole PATH."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    for name in PROGRAMS:
        (folder / name).symlink_to(shutil.which(name))
    return folder


def add_program(folder, name, script=f'exec {PYTHON} "$@"'):
    program = folder / name
    program.write_text(f'#!{shutil.which("bash")}\n{script}\n')
    program.chmod(0o755)


def environment(checkout, **changes):
    choices = ('PYTHON', 'TORCH', 'STACK', 'MAKEFLAGS')
    inherited = {k: v for k, v in os.environ.items() if k not in choices}
    return {**inherited, 'XDG_CACHE_HOME': str(checkout / 'cache'), **changes}


def set_up(checkout, **changes):
    """Runs the whole script; only for runs that end before anything is installed."""
    return subprocess.run(
        [checkout / 'tools/setup_env.sh'],
        env=environment(checkout, **changes),
        capture_output=True,
        text=True,
        timeout=10,
    )


def call(checkout, code, **changes):
    """Runs ``code`` with the functions of the script."""
    return subprocess.run(
        ['bash', '-c', f'source tools/setup_env.sh\n{code}'],
        cwd=checkout,
        env=environment(checkout, **changes),
        capture_output=True,
        text=True,
        timeout=30,
    )


def assert_one_line(result, *words):
    assert result.returncode != 0
    assert result.stdout == ''
    (line,) = result.stderr.splitlines()
    for word in words:
        assert word in line


@pytest.fixture
def finished(checkout):
    """A checkout that looks as a finished set-up leaves it, with an empty venv."""
    venv.create(checkout / '.venv', with_pip=False)
    (site_packages,) = (checkout / '.venv/lib').glob('python3*/site-packages')
    (site_packages / 'pip-1.dist-info').mkdir()
    (site_packages / 'pip-1.dist-info/RECORD').touch()
    call(checkout, 'fingerprint >$STAMP').check_returncode()
    return checkout


# --- what ends at once -------------------------------------------------------


def test_python_too_new(checkout, programs):
    add_program(programs, 'python3', '[[ $1 == -V ]] && echo Python 3.13.1')
    result = set_up(checkout, PATH=str(programs))
    assert_one_line(result, 'Python 3.13.1', 'apt-get install python3.11')


def test_no_python(checkout, programs):
    result = set_up(checkout, PATH=str(programs))
    assert_one_line(result, 'no python3', 'apt-get install python3.11')


def test_named_python_does_not_exist(checkout):
    assert_one_line(set_up(checkout, PYTHON='/no/python3.11'), 'no /no/python3.11')


def test_first_python_that_fits(checkout, programs):
    # As pyenv's stand-ins do for a version that is not installed.
    add_program(programs, 'python3.11', 'exit 127')
    add_program(programs, 'python3')
    assert call(checkout, 'find_python', PATH=str(programs)).stdout == 'python3\n'


def test_no_compiler(checkout, programs):
    add_program(programs, 'python3.11')
    result = set_up(checkout, PATH=str(programs))
    assert_one_line(result, 'apt-get install', 'g++', 'make')
    assert not (checkout / '.venv').exists()


@pytest.mark.parametrize(
    ('asked', 'package'), [('ensurepip', 'venv'), ('Python.h', 'dev')]
)
def test_no_venv_module_or_headers(checkout, programs, asked, package):
    add_program(programs, 'g++')
    add_program(programs, 'make')
    script = f'[[ $2 != *{asked}* ]] && exec {PYTHON} "$@"; exit 1'
    add_program(programs, 'python3.11', script)
    version = '{}.{}'.format(*sys.version_info)
    result = set_up(checkout, PATH=str(programs))
    assert_one_line(result, f'apt-get install python{version}-{package}')
    assert not (checkout / '.venv').exists()


# --- the stamp ---------------------------------------------------------------


def test_second_run_does_nothing(finished):
    before = sorted(finished.rglob('*'))
    result = set_up(finished)
    assert (result.returncode, result.stdout, result.stderr) == (0, '', '')
    assert sorted(finished.rglob('*')) == before


@pytest.mark.parametrize('source', SOURCES)
def test_stamp_covers(finished, source):
    assert call(finished, 'is_finished').returncode == 0
    with (finished / source).open('a') as file:
        file.write('\n# changed\n')
    assert call(finished, 'is_finished').returncode == 1


def test_stamp_covers_the_choices(finished):
    assert call(finished, 'is_finished', TORCH='torch==2.10.0').returncode == 1
    assert call(finished, 'is_finished', PYTHON=PYTHON).returncode == 0
    assert call(finished, 'is_finished', PYTHON='/no/python3.11').returncode == 1


def test_half_made_venv_is_not_finished(finished):
    (record,) = finished.glob('.venv/lib/*/site-packages/pip-1.dist-info/RECORD')
    record.unlink()
    assert call(finished, 'is_finished').returncode == 1


def test_half_installed_packages_are_dropped(finished):
    (site_packages,) = (finished / '.venv/lib').glob('python3*/site-packages')
    whole, half, parked = (
        site_packages / name for name in ('a-1.dist-info', 'b-1.dist-info', '~c')
    )
    for folder in (whole, half, parked):
        folder.mkdir()
    (whole / 'RECORD').touch()
    call(finished, 'drop_half_installed').check_returncode()
    assert [whole.exists(), half.exists(), parked.exists()] == [True, False, False]


# --- the choice of torch -----------------------------------------------------


def test_torch_choice_is_remembered(finished):
    assert call(finished, 'torch_choice').stdout == 'torch==2.13.0\n'
    call(finished, 'remember_torch', TORCH='torch==2.10.0').check_returncode()
    assert call(finished, 'torch_choice').stdout.startswith('torch==2.10.0\n')
    assert call(finished, 'is_finished').returncode == 1
    # A run without TORCH keeps it, another TORCH or index replaces it.
    call(finished, 'remember_torch; fingerprint >$STAMP').check_returncode()
    assert call(finished, 'is_finished').returncode == 0
    assert call(finished, 'is_finished', TORCH='torch==2.10.0').returncode == 0
    assert call(finished, 'is_finished', TORCH='torch==2.11.0').returncode == 1
    other = {'TORCH': 'torch==2.10.0', 'PIP_INDEX_URL': 'http://user:secret@localhost'}
    assert call(finished, 'is_finished', **other).returncode == 1
    assert 'secret' not in call(finished, 'torch_choice', **other).stdout


def fake_wheel(folder, name, version, *needs):
    """Writes a wheel of that name and version."""
    wheel = folder / f'{name}-{version}-py3-none-any.whl'
    info = f'{name}-{version}.dist-info'
    metadata = f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n'
    metadata += ''.join(f'Requires-Dist: {need}\n' for need in needs)
    tags = 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n'
    files = {
        f'{info}/METADATA': metadata,
        f'{info}/WHEEL': tags,
        f'{info}/RECORD': f'{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n',
    }
    with zipfile.ZipFile(wheel, 'w') as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return str(wheel)


@pytest.fixture
def pip(tmp_path):
    """Settings that lend this interpreter's pip to an empty venv, without network."""
    if find_spec('pip') is None:
        pytest.skip('this interpreter has no pip to lend')
    folder = tmp_path / 'pip only'
    folder.mkdir()
    (folder / 'pip').symlink_to(Path(find_spec('pip').origin).parent)
    return {
        'PYTHONPATH': str(folder),
        'PIP_NO_INDEX': '1',
        'PIP_CONFIG_FILE': '/dev/null',
    }


def test_torch_is_exchanged(finished, pip):
    for version in ('2.13.0', '2.10.0+cu130'):
        choice = {'TORCH': fake_wheel(finished, 'torch', version), **pip}
        call(finished, 'install_torch', **choice).check_returncode()
        assert call(finished, 'torch_version').stdout == f'{version}\n'
    again = call(finished, 'install_torch', **choice)
    assert (again.returncode, again.stdout) == (0, '')


def test_torch_too_new_is_refused(finished, pip):
    wheel = fake_wheel(finished, 'torch', '2.14.0')
    result = call(finished, 'install_torch', TORCH=wheel, **pip)
    assert result.returncode != 0
    (line,) = result.stderr.splitlines()
    assert '2.14' in line
    assert 'C++17' in line
    assert call(finished, 'torch_version').returncode != 0


# --- torchvision -------------------------------------------------------------


def test_pinned_torchvision_belongs_to_the_pinned_torch(checkout):
    code = 'torch_version() { pin torch | cut -d = -f 3; }\ntorchvision_version'
    version = call(checkout, code).stdout.strip()
    pins = (ROOT / 'constraints.txt').read_text().splitlines()
    assert f'torchvision=={version}' in pins


@pytest.mark.parametrize(
    ('torch_version', 'version'),
    [('2.6.0', '0.21.0'), ('2.7.1+cu126', '0.22.1'), ('2.9.0a0+git1a2b', '0.24.0')],
)
def test_torchvision_of_a_torch(checkout, torch_version, version):
    code = f'torch_version() {{ echo {torch_version}; }}\ntorchvision_version'
    assert call(checkout, code).stdout == f'{version}\n'


def test_torchvision_follows_torch_and_brings_nothing_along(finished, pip, tmp_path):
    index = tmp_path / 'index'
    index.mkdir()
    choices = {'2.13.0': '0.28.0', '2.13.0+cu130': '0.28.0+cu130', '2.10.0': '0.25.0'}
    pip['PIP_FIND_LINKS'] = str(index).replace(' ', '%20')
    installed = 'import importlib.metadata as m; print(m.version("torchvision"))'
    for torch_version, version in choices.items():
        fake_wheel(index, 'torchvision', version, 'torch==1.0', 'nvidia-all')
        choice = {'TORCH': fake_wheel(finished, 'torch', torch_version), **pip}
        code = f"""
        install_torch && install_torchvision >/dev/null
        torch_version; "$VENV_PYTHON" -c '{installed}'
        """
        result = call(finished, code, **choice)
        assert result.stdout.splitlines()[-2:] == [torch_version, version], result
    again = call(finished, 'install_torchvision', **choice)
    assert (again.returncode, again.stdout) == (0, '')


@pytest.mark.parametrize('loads', [True, False])
def test_torchvision_without_its_library_declares_its_operators(finished, loads):
    (site_packages,) = (finished / '.venv/lib').glob('python3*/site-packages')
    folder = site_packages / 'torchvision'
    folder.mkdir()
    extension = folder / 'extension.py'
    extension.write_text(f'import torch\ndef _has_ops():\n    return {loads}\n')
    fails = 'raise RuntimeError("operator torchvision::nms does not exist")'
    (folder / '__init__.py').write_text('' if loads else fails)
    before = extension.read_text()
    call(finished, 'let_torchvision_import').check_returncode()
    assert (extension.read_text() == before) == loads
    if loads:
        return
    code = f'exec({extension.read_text()!r}); print(torch.ops.torchvision.qnms)'
    result = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True
    )
    assert result.stdout == 'torchvision.qnms\n', result.stderr


# --- the stacks --------------------------------------------------------------


def test_unknown_stack(checkout):
    assert_one_line(set_up(checkout, STACK='oneld'), 'must be onedl', "is 'oneld'")
    assert not list(checkout.glob('.venv*'))


def pins(checkout, **changes):
    lines = call(checkout, 'pins', **changes).stdout.splitlines()
    return dict(line.split('==') for line in lines if line and line[0] != '#')


def test_fork_replaces_the_distributions_of_openmmlab_alone(checkout):
    stock, fork = pins(checkout), pins(checkout, STACK='onedl')
    replaced = {name for name in stock if name.startswith('mm')}
    assert replaced == {'mmengine', 'mmcv', 'mmdet', 'mmpretrain', 'mmsegmentation'}
    added = {name for name in fork if name.startswith('onedl-mm')}
    assert len(added) == len(replaced)
    # Beside them, what its mmdet needs.
    assert fork.keys() - stock.keys() - added == {
        *('imageio', 'imaug', 'lazy-loader', 'scikit-image', 'tifffile')
    }
    assert stock.items() - fork.items() == {(name, stock[name]) for name in replaced}


def test_stacks_do_not_share_an_environment(finished):
    """Each has its stamp, which covers the pins of that stack."""
    onedl = {'STACK': 'onedl'}
    (finished / '.venv-onedl').mkdir()
    call(finished, 'fingerprint >$STAMP', **onedl).check_returncode()
    stamped = '[[ $(<$STAMP) == "$(fingerprint)" ]]'
    assert call(finished, 'is_finished').returncode == 0
    assert call(finished, stamped, **onedl).returncode == 0
    with (finished / 'constraints-onedl.txt').open('a') as file:
        file.write('onedl-mmengine==9\n')
    assert call(finished, 'is_finished').returncode == 0
    assert call(finished, stamped, **onedl).returncode == 1


@pytest.mark.parametrize(('stack', 'name'), [('', 'mmcv'), ('onedl', 'onedl-mmcv')])
def test_mmcv_of_a_stack_has_its_place_in_the_cache(checkout, stack, name):
    code = """
    mmcv_key() { echo key; }
    mmcv_is_from() { echo "$(mmcv_name) $1"; }
    install_mmcv
    """
    found, home = call(checkout, code, STACK=stack).stdout.split(maxsplit=1)
    version = pins(checkout, STACK=stack)[name]
    assert found == name
    cache = checkout / 'cache/attn_plugins'
    assert home == f'{cache / f"{name}-{version}" / "key"}\n'


@pytest.mark.parametrize(
    ('words', 'folder'), [([], '.venv'), (['STACK=onedl'], '.venv-onedl')]
)
def test_make_runs_the_python_of_the_stack(words, folder):
    result = subprocess.run(
        ['make', '-n', 'test', *words],
        cwd=ROOT,
        env=environment(ROOT),
        capture_output=True,
        text=True,
    )
    assert f'\n{folder}/bin/python -m pytest' in result.stdout


# --- pip ---------------------------------------------------------------------


def test_network_failure_is_one_line(finished, pip):
    nowhere = {'PIP_INDEX_URL': 'http://127.0.0.1:9/', 'PIP_RETRIES': '1'}
    del pip['PIP_NO_INDEX']
    result = call(finished, 'run_pip "cannot install x" install x', **pip, **nowhere)
    assert_one_line(result, 'cannot install x', 'no answer from the package index')
