"""One command for all: every name leads to a module that can say what it does."""

import sys

import pytest

pytest.importorskip('mmseg')
from attn_plugins.__main__ import COMMANDS, main


@pytest.mark.parametrize('command', COMMANDS)
def test_every_command_says_what_it_does(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['attn-plugins', command, '--help'])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 0
    assert capsys.readouterr().out.startswith(f'usage: attn-plugins {command} ')


def test_commands_are_listed(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['attn-plugins', '--help'])
    assert main() == 0
    out = capsys.readouterr().out
    assert all(f'  {name} ' in out for name in COMMANDS)
    monkeypatch.setattr(sys, 'argv', ['attn-plugins', 'predcit'])
    assert main() == 2
    assert "no command 'predcit'" in capsys.readouterr().err
