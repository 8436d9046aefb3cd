"""`doctor --data`: it knows the folders that the configs read."""

import subprocess
import sys
from fnmatch import fnmatch

import pytest

from attn_plugins.cli.datasets import DATASETS, DataSet, Part, examine, report

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
    known = [f'data/{d.folder}/{part.pattern}' for d in DATASETS for part in d.parts]
    for path in read:
        assert any(fnmatch(pattern, f'{path}*') for pattern in known), path


@pytest.fixture
def dataset():
    parts = (Part('images/*.jpg', 2), Part('list.txt'), Part('extra/*', None, 'some'))
    return DataSet('Drawn', 'drawn', parts, ('unzip drawn.zip -d {root}',))


def lines_of(dataset, root):
    return [line.strip() for line in examine(dataset, root)]


def test_missing_parts_come_with_the_commands(dataset, tmp_path):
    lines = lines_of(dataset, tmp_path)
    assert [line.split()[0] for line in lines[1:4]] == ['MISSING'] * 3
    assert lines[3].endswith('(for some)')
    assert lines[-1] == f'unzip drawn.zip -d {tmp_path}'


def test_half_unpacked_is_not_found(dataset, tmp_path):
    (tmp_path / 'drawn/images').mkdir(parents=True)
    (tmp_path / 'drawn/images/0.jpg').touch()
    assert lines_of(dataset, tmp_path)[1].startswith('1 of 2 ')


def test_whole_data_set_needs_no_commands(dataset, tmp_path):
    for name in ('images/0.jpg', 'images/1.jpg', 'list.txt', 'extra/0'):
        path = tmp_path / 'drawn' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    lines = lines_of(dataset, tmp_path)
    assert len(lines) == 4
    assert all(line.startswith('found ') for line in lines[1:])


def test_real_sample_is_seen(real_data):
    voc = next(d for d in DATASETS if d.name.startswith('Pascal'))
    lines = examine(voc, real_data / 'voc_boxes')
    assert any('of 17125' in line for line in lines)


def test_doctor_prints_it(tmp_path):
    command = [sys.executable, '-m', 'attn_plugins', 'doctor', '--data', tmp_path]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == report(tmp_path)
    for dataset in DATASETS:
        assert f'{dataset.name}, in {tmp_path / dataset.folder}\n' in result.stdout
