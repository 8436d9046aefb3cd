"""Configs are programs: each way of running code that docs/reliability.md names.

Should one of these fail, mmengine has become safer, and the page is to be mended.
"""

import json

import pytest

pytest.importorskip('mmengine')
from mmengine.config import Config
from mmengine.registry import HOOKS


@pytest.fixture
def marker(tmp_path):
    """A file that only code of a config makes."""
    path = tmp_path / 'marker'
    assert not path.exists()
    return path


def program(marker) -> str:
    return f'open({str(marker)!r}, "w").close()\n'


def read(path, text: str) -> Config:
    path.write_text(text)
    return Config.fromfile(path)


def test_reading_a_config_runs_it(marker, tmp_path):
    read(tmp_path / 'a.py', program(marker))
    assert marker.exists()


def test_the_expression_of_the_bases_is_evaluated(marker, tmp_path):
    (tmp_path / 'base.py').write_text('x = 1\n')
    call = program(marker).strip()
    read(tmp_path / 'a.py', f"_base_ = ['base.py', {call}][:1]\n")
    assert marker.exists()


def test_a_json_config_runs_a_base(marker, tmp_path):
    (tmp_path / 'base.py').write_text(program(marker))
    read(tmp_path / 'a.json', json.dumps(dict(_base_='base.py')))
    assert marker.exists()


def test_a_json_config_imports_modules(marker, tmp_path, monkeypatch):
    (tmp_path / 'module_of_a_config.py').write_text(program(marker))
    monkeypatch.syspath_prepend(tmp_path)
    imports = dict(custom_imports=dict(imports=['module_of_a_config']))
    read(tmp_path / 'a.json', json.dumps(imports))
    assert marker.exists()


def test_a_type_with_dots_is_called(marker):
    """What a runner does with its hooks; any registry does it."""
    HOOKS.build(dict(type='subprocess.run', args=['touch', str(marker)]))
    assert marker.exists()


def test_environment_variables_become_code(marker, tmp_path, monkeypatch):
    monkeypatch.setenv('NAME_OF_A_RUN', f'{program(marker).strip()} or 1')
    read(tmp_path / 'a.py', "x = {{'$NAME_OF_A_RUN:1'}}\n")
    assert marker.exists()


def test_the_pure_python_style_runs_its_bases(marker, tmp_path):
    (tmp_path / 'base.py').write_text(program(marker))
    text = 'from mmengine.config import read_base\nwith read_base():\n'
    read(tmp_path / 'a.py', f'{text}    from .base import *\n')
    assert marker.exists()
