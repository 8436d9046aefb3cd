"""`doctor --data`: it knows the folders that the configs read."""

from fnmatch import fnmatch

import pytest

from attn_plugins.cli import datasets

# One of each data set that names folders, and of each way to use it.
CONFIGS = (
    'eanet_r101_ade20k',
    'eanet_r101_cityscapes',
    'eanet_r101_voc',
    'eanet_r101_voc_trainval',
    'eanet_r18_camvid',
    'htc_wrn50-dcn_coco_20e',
)


@pytest.mark.parametrize('name', CONFIGS)
def test_every_folder_that_a_config_reads_is_listed(repo, monkeypatch, tmp_path, name):
    launch = pytest.importorskip('attn_plugins.mm.apis.launch')
    cfg = launch.read_config(repo / f'configs/{name}.py')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(launch.LaunchError) as error:
        launch.check_data(cfg, 'train', 'val', 'test')
    rows = [line.split() for line in str(error.value).splitlines()]
    read = [row[1] for row in rows if row[0] == 'MISSING']
    assert len(read) > 3
    known = [
        f'data/{f}/{part}' for f, parts in datasets.LAYOUT.items() for part in parts
    ]
    for path in read:
        assert any(fnmatch(pattern, f'{path}*') for pattern in known), path


def test_missing_half_unpacked_and_whole_parts(monkeypatch, tmp_path, capsys):
    parts = {'images/*.jpg': (2, ''), 'list.txt': (1, ''), 'extra/*': (None, 'some')}
    monkeypatch.setattr(datasets, 'LAYOUT', {'drawn': parts})

    def states():
        datasets.print_datasets(tmp_path)
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        return [line[:-1] if line[-1] == 'some' else line for line in lines[1:4]]

    paths = [f'drawn/{pattern}' for pattern in parts]
    assert states() == [['MISSING', path] for path in paths]
    (tmp_path / 'drawn/images').mkdir(parents=True)
    (tmp_path / 'drawn/images/0.jpg').touch()
    assert states()[0] == ['1', 'of', '2', paths[0]]
    for name in ('images/1.jpg', 'list.txt', 'extra/0'):
        path = tmp_path / 'drawn' / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert states() == [['found', path] for path in paths]


def test_real_sample_is_seen(real_data):
    images = real_data / 'voc_boxes/VOCdevkit/VOC2012'
    assert datasets.state(images, 'JPEGImages/*.jpg', 17125).endswith(' of 17125')
