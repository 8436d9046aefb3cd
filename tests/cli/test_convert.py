"""The command line: what it says, what it writes, what it refuses to touch."""

import json
import os
import sys

import pytest
import torch

pytest.importorskip('mmengine')
from mmengine.runner.checkpoint import CheckpointLoader
from released_files import thin_state_dict

import attn_plugins.__main__

NAME = 'lesa_wrn50_dcn_detection'


class Poison:
    def __reduce__(self):
        return os.system, ('touch poisoned',)


@pytest.fixture
def convert(tmp_path, monkeypatch):
    """Runs the tool in a folder with a released checkpoint, ``src.pth``."""
    monkeypatch.chdir(tmp_path)
    torch.save(dict(state_dict=thin_state_dict(NAME), epoch=12), 'src.pth')

    def run(*args: str) -> None:
        monkeypatch.setattr(sys, 'argv', ['attn_plugins', 'convert', *args])
        attn_plugins.__main__.main()

    return run


def refused(convert, *args: str) -> str:
    """The one line that the tool ends with; it leaves no new file behind."""
    before = sorted(os.listdir())
    with pytest.raises(SystemExit) as error:
        convert(*args)
    assert sorted(os.listdir()) == before
    prefix, _, message = error.value.code.partition(': error: ')
    assert prefix == 'attn-plugins convert'
    return message


def test_summary(convert, capsys):
    convert('src.pth', 'dst.pth')
    said = capsys.readouterr().out
    assert said == (
        'layout   LESA-50 backbone of a detector, deformable\n'
        'keys     592 read: 0 keep their names, 592 renamed (8 of them reshaped), '
        '0 dropped, 0 missing\n'
        'left out epoch: not part of the model\n'
        'wrote    dst.pth\n'
        '\n'
        'use it so:\n'
        "# All that the file holds: load_from='dst.pth'. Its backbone alone:\n"
        'backbone=dict(\n'
        "    type='LESAResNet',\n"
        '    depth=50,\n'
        '    wide=True,\n'
        '    strides=(1, 2, 2, 2),\n'
        "    attn=dict(position='2d', num_heads=8),\n"
        '    rel_pos_input_size=256,\n'
        "    dcn=dict(type='DCN', deform_groups=1, fallback_on_stride=False),\n"
        '    stage_with_dcn=(False, True, True, True),\n'
        "    init_cfg=dict(type='Pretrained', checkpoint='dst.pth', "
        "prefix='backbone.'),\n"
        ')\n'
    )


def test_written_file(convert):
    convert('src.pth', 'dst.pth')
    assert sorted(os.listdir()) == ['dst.pth', 'src.pth']
    content = CheckpointLoader.load_checkpoint('dst.pth')
    assert content.keys() == {'meta', 'state_dict'}
    assert content['meta'].pop('backbone')['type'] == 'LESAResNet'
    assert content['meta'] == dict(
        converted_from='LESA-50 backbone of a detector, deformable',
        depth=50,
        wide=True,
        dcn=True,
        position='2d',
        rel_pos_input_size=256,
    )
    assert len(content['state_dict']) == 592
    old = thin_state_dict(NAME)['layer4.2.conv2.rel_height']
    new = content['state_dict']['backbone.layer4.2.conv2.context.rel_h']
    assert torch.equal(new, old)


def test_every_key_on_the_terminal_and_in_json(convert, capsys):
    torch.save(thin_state_dict('lesa_resnet50_imagenet'), 'src.pth')
    convert('src.pth', 'dst.pth', '--verbose', '--report', 'keys.json')
    said = capsys.readouterr().out
    assert 'dropped  layer3.1.conv2.flatten_index and 7 like it: follows from' in said
    assert '\n  layer3.1.conv2.flatten_index dropped\n' in said
    assert '\n  fc.bias -> head.fc.bias\n' in said
    assert (
        '.qkv_transform.weight -> backbone.layer3.1.conv2.context.qkv.weight (res'
        in said
    )
    with open('keys.json') as file:
        report = json.load(file)
    assert report['renamed']['fc.bias'] == 'head.fc.bias'
    assert len(report['renamed']) + len(report['dropped']) == 568
    assert report['meta']['rel_pos_input_size'] == 224


def test_missing_keys_are_said(convert, capsys):
    state_dict = thin_state_dict(NAME)
    del state_dict['bn1.num_batches_tracked']
    torch.save(state_dict, 'src.pth')
    convert('src.pth', 'dst.pth', '--verbose')
    said = capsys.readouterr().out
    assert 'missing  bn1.num_batches_tracked: the model has its own\n' in said
    assert '\n  bn1.num_batches_tracked missing\n' in said


def test_files_that_are_there_are_kept_unless_forced(convert):
    for name in ('dst.pth', 'keys.json'):
        with open(name, 'w') as file:
            file.write('mine')
        message = refused(convert, 'src.pth', 'dst.pth', '--report', 'keys.json')
        assert message == f'{name} is there already, --force overwrites it'
        os.rename(name, 'other')
    convert('src.pth', 'dst.pth')
    convert('src.pth', 'dst.pth', '--force')


def test_a_failure_keeps_what_is_there_even_if_forced(convert):
    with open('dst.pth', 'w') as file:
        file.write('mine')
    torch.save({'a': torch.zeros(1)}, 'src.pth')
    assert 'no released checkpoint' in refused(convert, 'src.pth', 'dst.pth', '--force')
    with open('dst.pth') as file:
        assert file.read() == 'mine'


def test_a_full_disk_leaves_nothing(convert, monkeypatch):
    def fail(*args):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', fail)
    message = refused(convert, 'src.pth', 'dst.pth')
    assert message.startswith('dst.pth cannot be written (No space left on device)')


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (('none.pth', 'dst.pth'), 'there is no checkpoint none.pth'),
        (('src.pth', './src.pth'), './src.pth and src.pth are the same file, name an'),
        (('src.pth', 'link.pth'), 'link.pth and src.pth are the same file, name an'),
        (
            ('src.pth', 'a.pth', '--report', 'a.pth', '--force'),
            'a.pth and a.pth are the same file, name another',
        ),
        (('src.pth', 'folder'), 'folder is a folder, name a file in it'),
        (
            ('src.pth', 'none/a.pth'),
            'none/a.pth cannot be written: none is not a folder',
        ),
        (
            ('src.pth', 'src.pth/a'),
            'src.pth/a cannot be written: src.pth is not a folder',
        ),
        (
            ('src.pth', 'a.pth', '--report', 'none/a.json'),
            'none/a.json cannot be written: none is not a folder to write to',
        ),
    ],
)
def test_paths_are_checked_before_the_work(convert, monkeypatch, args, message):
    os.mkdir('folder')
    os.symlink('src.pth', 'link.pth')
    monkeypatch.setattr(torch, 'load', None)
    assert refused(convert, *args).startswith(message)


def test_code_is_refused_and_not_run(convert):
    torch.save(dict(state_dict=thin_state_dict(NAME), extra=Poison()), 'src.pth')
    message = refused(convert, 'src.pth', 'dst.pth')
    assert message.startswith('src.pth is refused: it asks for ')
    assert 'system, which is not on the safe list' in message
    assert '\n' not in message


def test_damaged_file(convert):
    with open('src.pth', 'r+b') as file:
        file.truncate(1000)
    assert 'damaged or incomplete' in refused(convert, 'src.pth', 'dst.pth')


def test_unknown_layout(convert):
    state_dict = thin_state_dict(NAME)
    state_dict['extra.weight'] = state_dict.pop('conv1.weight')
    torch.save(state_dict, 'src.pth')
    assert refused(convert, 'src.pth', 'dst.pth') == (
        'src.pth cannot be converted: this layout is unknown. It is closest to that of '
        '"LESA-50 backbone of a detector, deformable", compared with which it lacks '
        'conv1.weight, and it also has extra.weight.'
    )
