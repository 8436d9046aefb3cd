"""predict, maps, curves and report as a user calls them, in-process.

One tiny segmentor: what differs between hosts is tested in test_prediction.py.
"""

import json
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('mmseg')
from mmengine.config import Config

from attn_plugins.cli import curves, maps, predict, report
from attn_plugins.mm.apis.launch import LaunchError, one_line_errors
from attn_plugins.mm.apis.prediction import Predictor
from attn_plugins.visualization import UNTRAINED

REPO = Path(__file__).resolve().parents[2]
CONFIG = str(REPO / 'configs/eanet_r18_demo.py')
LOG = """\
+-------+-------+
| Class |  IoU  |
+-------+-------+
|  sky  | 64.25 |
+-------+-------+

"""


def draw(seed: int) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(small, (80, 60), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory) -> str:
    torch.manual_seed(0)
    model = Predictor(Config.fromfile(CONFIG)).model
    path = tmp_path_factory.mktemp('weights') / 'iter_2.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return str(path)


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / 'images'
    folder.mkdir()
    for name in ('a.jpg', 'a.png', 'c.png'):
        cv2.imwrite(str(folder / name), draw(len(name)))
    return folder


@pytest.fixture
def image(folder) -> str:
    return str(folder / 'c.png')


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file())


# --- predict -------------------------------------------------------------------------


def test_predict_folder_goes_on_after_a_broken_image(
    folder, checkpoint, tmp_path, capsys
):
    (folder / 'b.jpg').write_text('no pixels')
    out = tmp_path / 'out'
    with pytest.raises(LaunchError) as caught:
        predict.main([str(folder), CONFIG, checkpoint, '--out', str(out)])
    first, second = str(caught.value).splitlines()
    assert first == '1 failed:'
    assert second.startswith('  b.jpg: ')
    assert 'cannot be read as an image' in second
    names = ('a_jpg', 'a_png', 'c')  # two differ in their ending alone
    expected = [f'{kind}/{name}.png' for kind in ('masks', 'vis') for name in names]
    assert files(out) == ['classes.json', *expected]
    said = capsys.readouterr().out
    assert '4/4' in said  # the bar
    assert '3 predicted' in said
    assert UNTRAINED not in said


def test_predict_video(checkpoint, tmp_path):
    video = tmp_path / 'clip.avi'
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*'MJPG'), 5, (80, 60))
    for seed in range(3):
        writer.write(draw(seed))
    writer.release()
    out = tmp_path / 'out'
    predict.main([str(video), CONFIG, checkpoint, '--out', str(out)])
    masks = sorted((out / 'masks').iterdir())
    assert [path.name for path in masks] == [f'clip_{i:06d}.png' for i in range(3)]
    assert np.asarray(Image.open(masks[0])).shape == (60, 80)


def test_a_video_that_does_not_say_how_long_it_is(
    checkpoint, tmp_path, monkeypatch, capsys
):
    class Stream:
        said = 0

        def __init__(self, path):
            self.frames = iter([draw(0), draw(1), draw(2)])

        def read(self):
            frame = next(self.frames, None)
            return frame is not None, frame

        def get(self, which):
            return Stream.said

        def release(self):
            pass

    monkeypatch.setattr(cv2, 'VideoCapture', Stream)
    video = tmp_path / 'clip.mp4'
    video.touch()
    for said in (0, -9, 1):  # the last is wrong
        Stream.said = said
        out = tmp_path / f'out{said}'
        predict.main([str(video), CONFIG, checkpoint, '--out', str(out)])
        assert len(list((out / 'masks').iterdir())) == 3
        printed = capsys.readouterr().out
        assert '3 predicted' in printed
        assert ('completed: 3' in printed) == (said != 1)


def test_a_folder_goes_on_after_any_error(folder, tmp_path, monkeypatch):
    errors = [AssertionError(), KeyError('img'), TypeError('\nfirst line\nsecond')]
    monkeypatch.setattr(
        Predictor, 'predict', lambda self, image: (_ for _ in ()).throw(errors.pop(0))
    )
    with pytest.raises(LaunchError) as caught:
        predict.main([str(folder), CONFIG, '--out', str(tmp_path / 'out')])
    assert str(caught.value).splitlines() == [
        '3 failed:',
        '  a.jpg: AssertionError',
        "  a.png: 'img'",
        '  c.png: first line',
    ]


def test_predict_without_checkpoint_says_so(image, tmp_path, capsys):
    predict.main([image, CONFIG, '--out', str(tmp_path / 'out')])
    assert UNTRAINED in capsys.readouterr().out


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (['nope.jpg', CONFIG], 'there is no image, folder or video nope.jpg'),
        (['nope.mp4', CONFIG], 'there is no image, folder or video nope.mp4'),
        (['IMAGE', 'nope.py'], 'there is no config file nope.py'),
        (['IMAGE', CONFIG, 'nope.pth'], 'there is no checkpoint nope.pth'),
        (['BROKEN', CONFIG], 'cannot be read as an image'),
        (['IMAGE', CONFIG, '--out', 'IMAGE'], 'cannot write to the folder'),
    ],
)
def test_predict_bad_input(arguments, expected, image, folder, tmp_path):
    (folder / 'broken.jpg').write_text('no pixels')
    places = {'IMAGE': image, 'BROKEN': str(folder / 'broken.jpg')}
    arguments = [places.get(argument, argument) for argument in arguments]
    if '--out' not in arguments:
        arguments += ['--out', str(tmp_path / 'out')]
    with pytest.raises(LaunchError, match=expected):
        predict.main(arguments)


def test_mistakes_are_one_line_without_a_stack_trace(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['attn-plugins predict'])
    with pytest.raises(SystemExit) as ended, one_line_errors():
        predict.main(['nope.jpg', CONFIG, '--out', str(tmp_path)])
    expected = (
        'attn-plugins predict: error: there is no image, folder or video nope.jpg'
    )
    assert ended.value.code == expected


# --- visualize_attention -------------------------------------------------------------


class Reader(HTMLParser):
    """Collects what a page shows and asks for."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for key, value in attrs if key in ('src', 'href')]

    def handle_data(self, data):
        self.texts.append(data)

    def check_offline(self) -> None:
        assert all(a.startswith(('data:', '#section-')) for a in self.addresses)


def test_visualize_attention(image, checkpoint, tmp_path, capsys):
    out = tmp_path / 'out'
    maps.main([image, CONFIG, checkpoint, '--out', str(out)])
    assert files(out) == ['decode_head.attn.png', 'index.html']
    page = Reader(out / 'index.html')
    page.check_offline()
    assert 'decode_head.attn' in page.texts
    assert UNTRAINED not in page.texts
    assert 'map 15 x 20' in capsys.readouterr().out


def test_untrained_attention_says_so(image, tmp_path, capsys):
    out = tmp_path / 'out'
    maps.main([image, CONFIG, '--out', str(out), '--slots', '3'])
    assert UNTRAINED in capsys.readouterr().out
    assert UNTRAINED in Reader(out / 'index.html').texts


def test_layers_are_listed(image, tmp_path, capsys):
    out = tmp_path / 'out'
    maps.main([image, CONFIG, '--out', str(out), '--list'])
    assert capsys.readouterr().out == 'decode_head.attn  ExternalAttention2d\n'
    assert not out.exists()


def test_a_model_without_layers_has_none_to_list(image, tmp_path):
    plain = tmp_path / 'plain.py'
    head = "_delete_=True, type='FCNHead', in_channels=512, channels=8, num_classes=15"
    model = f'dict(decode_head=dict({head}))'
    plain.write_text(f'_base_ = {CONFIG!r}\nmodel = {model}\n')
    with pytest.raises(LaunchError, match='has none of the layers'):
        maps.main([image, str(plain), '--out', str(tmp_path), '--list'])


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (['nope.jpg', CONFIG], 'there is no image nope.jpg'),
        (['IMAGE', CONFIG, 'nope.pth'], 'there is no checkpoint nope.pth'),
        (['IMAGE', CONFIG, '--layers', 'decode_head'], 'layers are: decode_head.attn'),
        (['IMAGE', CONFIG, '--num-slots', '0'], '--num-slots must be positive, got 0'),
        (['IMAGE', CONFIG, '--slots', '64'], r'slots must lie in \[0, 64\), got 64'),
        (['IMAGE', CONFIG, '--point', '80', '5'], '80 5 is not in the image'),
        (['IMAGE', CONFIG, '--click'], '--click needs a display'),
        (['IMAGE', CONFIG, '--out', 'IMAGE'], 'cannot write to the folder'),
    ],
)
def test_visualize_attention_bad_input(
    arguments, expected, image, tmp_path, monkeypatch
):
    monkeypatch.setenv('MPLBACKEND', 'agg')
    arguments = [image if argument == 'IMAGE' else argument for argument in arguments]
    if '--out' not in arguments:
        arguments += ['--out', str(tmp_path / 'out')]
    with pytest.raises(LaunchError, match=expected):
        maps.main(arguments)


def test_a_clicked_point(image, tmp_path, monkeypatch, capsys):
    from matplotlib import pyplot as plt

    monkeypatch.setattr(plt, 'get_backend', lambda: 'qtagg')
    monkeypatch.setattr(plt, 'ginput', lambda *_, **__: [(7.0, 9.0)])
    out = ['--out', str(tmp_path)]
    maps.main([image, CONFIG, *out, '--click', '--num-slots', '1'])
    assert '--point 7 9' in capsys.readouterr().out


# --- plot_run and report -------------------------------------------------------------


@pytest.fixture(scope='module')
def made(tmp_path_factory, checkpoint) -> Path:
    """A work folder as mmengine leaves it, with a small data set beside it."""
    folder = tmp_path_factory.mktemp('made')
    data = folder / 'data'
    for kind in ('images', 'annotations'):
        (data / kind / 'validation').mkdir(parents=True)
    for seed in range(2):
        cv2.imwrite(str(data / f'images/validation/{seed}.jpg'), draw(seed))
        labels = np.uint8([[1] * 40 + [3] * 40] * 60)
        cv2.imwrite(str(data / f'annotations/validation/{seed}.png'), labels)
    run = folder / 'eanet'
    log = run / '20260101_000000/vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    records = [
        {'loss': 2.0, 'lr': 0.1, 'iter': 1, 'step': 1},
        {'loss': 1.0, 'lr': 0.05, 'iter': 2, 'step': 2},
        {'mIoU': 31.25, 'aAcc': 60.0, 'step': 2},
    ]
    log.write_text(''.join(f'{json.dumps(record)}\n' for record in records))
    (run / '20260101_000000/20260101_000000.log').write_text(LOG)
    cfg = Config.fromfile(CONFIG)
    cfg.test_dataloader.dataset.data_root = str(data)
    cfg.dump(run / 'eanet_r18_demo.py')
    shutil.copy(checkpoint, run)
    return run


@pytest.fixture
def run(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / 'eanet'))


def test_plot_run(run, tmp_path, capsys):
    curves.main([str(run)])
    assert (run / 'curves.png').stat().st_size > 10_000
    other = tmp_path / 'elsewhere' / 'eanet'
    shutil.copytree(run, other)
    out = tmp_path / 'new' / 'both.svg'
    curves.main([str(run), str(other), '--keys', 'loss', 'aAcc', '--out', str(out)])
    assert out.read_text().startswith('<?xml')
    capsys.readouterr()
    curves.main([str(run), '--list'])
    assert capsys.readouterr().out.split() == [
        *('loss', 'lr', 'iter', 'step'),
        *('mIoU', 'aAcc'),
    ]


def test_runs_of_one_name_are_told_apart():
    assert curves.run_names(['a/x', 'b/y/']) == ['x', 'y']
    assert curves.run_names(['a/x', 'b/x']) == ['a/x', 'b/x']


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (['nope'], 'nope holds no log'),
        (['RUN', '--keys', 'nope'], "no run has logged 'nope'; the scalars are: loss"),
        (['RUN', '--out', 'curves.gif'], r'must end in \.pdf, \.png, \.svg'),
        (['RUN', 'RUN'], 'named twice'),
        (['RUN', '--out', 'RUN/eanet_r18_demo.py/c.png'], 'cannot write to the folder'),
    ],
)
def test_plot_run_bad_input(arguments, expected, run):
    arguments = [argument.replace('RUN', str(run)) for argument in arguments]
    with pytest.raises(LaunchError, match=expected):
        curves.main(arguments)


def test_tensorboard_line_names_a_back_end():
    pytest.importorskip('mmengine')
    from mmengine.registry import VISBACKENDS

    assert 'TensorboardVisBackend' in curves.__doc__
    assert VISBACKENDS.get('TensorboardVisBackend') is not None


@pytest.mark.slow
def test_report(run, capsys):
    report.main([str(run), '--num-images', '2'])
    assert 'report.html' in capsys.readouterr().out
    page = Reader(run / 'report.html')
    page.check_offline()
    for text in (
        'iter_2.pth',
        'Curves',
        '31.25',
        '64.25',  # the class of the log
        'The first of the test data: 0.jpg, 1.jpg',
        'decode_head.attn',
        'model.decode_head.type',
        "'EAHead'",
        "'FCNHead'",
    ):
        assert text in page.texts, text
    pictures = [a for a in page.addresses if a.startswith('data:image')]
    assert len(pictures) == 3  # curves, predictions, attention
    assert any('multiply-accumulates for an image of 80 x 60' in t for t in page.texts)
    assert UNTRAINED not in page.texts
    assert str(run) not in ''.join(page.texts)


def test_report_with_a_test(run):
    report.main([str(run), '--test', '--num-images', '1'])
    page = Reader(run / 'report.html')
    assert 'Test of iter_2.pth:' in page.texts
    assert 'mIoU' in page.texts
    assert 'boat' in page.texts  # of the table
    assert '64.25' not in page.texts


def test_report_of_little(run, image):
    """No checkpoint, no data, no log: what is left, and what is missing."""
    (run / 'iter_2.pth').unlink()
    shutil.rmtree(run / '20260101_000000')
    (run / 'eanet_r18_demo.py').rename(run / 'mine.py')
    report.main([str(run), '--data-root', 'nowhere'])
    page = Reader(run / 'report.html')
    assert UNTRAINED in page.texts
    said = ' '.join(page.texts)
    for text in ('No curves: ', 'No table by class', '--data-root', 'No stock base'):
        assert text in said, text
    base = 'mmseg::fcn/fcn_r50-d8_4xb4-160k_ade20k-512x512.py'
    arguments = ['--images', image, '--base', base, '--point', '3', '4']
    report.main([str(run), *arguments])
    said = ' '.join(Reader(run / 'report.html').texts)
    assert f'differ from {base}' in said
    assert 'In c.png.' in said


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (['nope'], 'there is no work folder nope'),
        (['RUN', '--checkpoint', 'nope.pth'], 'there is no checkpoint nope.pth'),
        (['RUN', '--config', 'nope.py'], 'there is no config file nope.py'),
        (['RUN', '--base', 'mmseg::nope.py'], 'no stock config mmseg::nope.py'),
        (['RUN', '--images', 'nope.jpg'], 'there is no image nope.jpg'),
        (['RUN', '--out', 'RUN/iter_2.pth/r.html'], 'cannot write to the folder'),
    ],
)
def test_report_bad_input(arguments, expected, run, monkeypatch):
    if arguments[1:2] in (['--config'], ['--base']):  # found before any work
        monkeypatch.setattr(report, 'Predictor', None)
    arguments = [argument.replace('RUN', str(run)) for argument in arguments]
    with pytest.raises(LaunchError, match=expected):
        report.main(arguments)


def test_report_of_a_data_set_of_arrays(tmp_path):
    """As CIFAR, which has no files, and would be downloaded."""
    pytest.importorskip('mmpretrain')
    from mmpretrain.datasets import BaseDataset
    from mmpretrain.registry import DATASETS

    class Arrays(BaseDataset):
        def load_data_list(self):
            red = np.full((32, 32, 3), (250, 0, 0), np.uint8)
            return [dict(img=red, gt_label=1), dict(img=red[..., 0], gt_label=0)]

    dataset = dict(
        type='Arrays',
        ann_file='',
        metainfo=dict(classes=('cat', 'dog')),
        pipeline=[dict(type='PackInputs')],
        data_root=str(tmp_path),
    )
    cfg = Config(
        dict(default_scope='mmpretrain', test_dataloader=dict(dataset=dataset))
    )
    DATASETS.register_module(module=Arrays)
    try:
        args = report.parse_args(['RUN'])
        images, missing = report.find_images(args, cfg)
        assert missing == ''
        assert [shown.name for shown in images] == ['test image 0', 'test image 1']
        assert [shown.truth for shown in images] == ['dog', 'cat']
        assert images[0].image[0, 0].tolist() == [0, 0, 250]  # BGR
        assert images[1].image[0, 0].tolist() == [250] * 3
        cfg.test_dataloader.dataset.data_root = str(tmp_path / 'nope')
        assert '--data-root' in report.find_images(args, cfg)[1]
    finally:
        DATASETS._module_dict.pop('Arrays')
