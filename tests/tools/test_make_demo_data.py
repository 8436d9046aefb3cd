"""The drawn data set: layout, class ids, determinism, and ambiguity where promised."""

import hashlib
import importlib.util
import itertools

import cv2
import numpy as np
import pytest
from mmengine.config import Config

SIZE = (48, 64)


@pytest.fixture(scope='module')
def demo(request):
    """The script as a module."""
    path = request.config.rootpath / 'tools' / 'make_demo_data.py'
    spec = importlib.util.spec_from_file_location('make_demo_data', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def data(demo, tmp_path_factory):
    """A small data set on disk."""
    out = tmp_path_factory.mktemp('data') / 'demo'
    assert demo.make_demo_data(out, num_train=8, num_val=4, size=SIZE)
    return out


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob('*')
        if path.is_file()
    }


def test_layout_is_ade20k(data):
    for split, count in (('training', 8), ('validation', 4)):
        images = sorted((data / 'images' / split).iterdir())
        labels = sorted((data / 'annotations' / split).iterdir())
        assert [path.suffix for path in images] == ['.jpg'] * count
        assert [path.suffix for path in labels] == ['.png'] * count
        assert [p.stem for p in images] == [p.stem for p in labels]
        for image, label in zip(images, labels, strict=True):
            assert cv2.imread(str(image)).shape == (*SIZE, 3)
            label = cv2.imread(str(label), cv2.IMREAD_UNCHANGED)
            assert label.shape == SIZE
            assert label.dtype == np.uint8


def test_ids_are_ade20k(demo):
    classes = pytest.importorskip('mmseg.datasets').ADE20KDataset.METAINFO['classes']
    for name, index in demo.ADE20K_IDS.items():
        assert classes[index - 1] == name


def test_config_names_the_classes_drawn(demo, repo):
    pytest.importorskip('mmseg')
    cfg = Config.fromfile(repo / 'configs' / 'eanet_r18_demo.py')
    assert cfg.train_dataloader.dataset.metainfo.classes == tuple(demo.ADE20K_IDS)
    assert len({tuple(rgb) for rgb in cfg.palette}) == len(cfg.classes)


def test_every_class_occurs(data, demo):
    for split in demo.SPLITS:
        labels = [
            cv2.imread(str(p), 0) for p in (data / 'annotations' / split).iterdir()
        ]
        ids = {0, *demo.ADE20K_IDS.values()}
        assert set(np.unique(labels).tolist()) == ids


def test_same_seed_same_bytes(demo, data, tmp_path):
    demo.make_demo_data(tmp_path / 'again', num_train=8, num_val=4, size=SIZE)
    assert digests(tmp_path / 'again') == digests(data)
    demo.make_demo_data(tmp_path / 'other', num_train=8, num_val=4, size=SIZE, seed=1)
    pictures = [
        {name: digest for name, digest in digests(folder).items() if 'images' in name}
        for folder in (data, tmp_path / 'other')
    ]
    assert not set(pictures[0].values()) & set(pictures[1].values())


def test_picture_does_not_depend_on_those_before(demo):
    alone, _ = demo.draw(0, 'training', 5, *SIZE)
    demo.draw(0, 'training', 4, *SIZE)
    after_another, _ = demo.draw(0, 'training', 5, *SIZE)
    np.testing.assert_array_equal(alone, after_another)


def test_splits_share_no_picture(demo):
    for index in range(4):
        training, _ = demo.draw(0, 'training', index, *SIZE)
        validation, _ = demo.draw(0, 'validation', index, *SIZE)
        assert (training != validation).mean() > 0.5


def patches(demo, scene, name, side=6, pictures=36, each=5):
    """Mean and spread of colour of patches within one class: (pictures, each, 6).

    Patches of high contrast are passed over: they hold a window or a lane marking.
    """
    found = []
    start, step = demo.SCENES.index(getattr(demo, scene)), len(demo.SCENES)
    for index in range(start, start + pictures * step, step):
        picture, label = demo.draw(7, 'training', index, 120, 160)
        windows = np.lib.stride_tricks.sliding_window_view(
            label == demo.ADE20K_IDS[name], (side, side)
        )
        corners = np.random.default_rng(index).permutation(
            np.argwhere(windows.all((2, 3)))
        )
        candidates = (
            picture[y : y + side, x : x + side].reshape(-1, 3) for y, x in corners
        )
        plain = (patch for patch in candidates if patch.std(0).max() < 10)
        found.append(
            [[*patch.mean(0), *patch.std(0)] for patch in itertools.islice(plain, each)]
        )
    return np.array(found)


def told_apart(first, second):
    """How often its nearest neighbours give a patch's class away; chance is 0.5.

    Neighbours come from other pictures: patches of one picture share their light.
    """
    known = [part[::2].reshape(-1, 6) for part in (first, second)]
    kinds = np.repeat([0, 1], [len(part) for part in known])
    known = np.concatenate(known)
    rates = []
    for kind, part in enumerate((first, second)):
        asked = part[1::2].reshape(-1, 1, 6)
        distance = np.linalg.norm((asked - known) / known.std(0), axis=-1)
        neighbours = kinds[np.argsort(distance, axis=1)[:, :15]]
        rates.append(np.mean((neighbours.mean(1) > 0.5) == kind))
    return np.mean(rates)


@pytest.mark.parametrize(
    ('first', 'second', 'control'),
    [
        (('coast', 'sea'), ('lake', 'lake'), ('coast', 'sky')),
        (('street', 'road'), ('room', 'floor'), ('coast', 'sand')),
        (('street', 'building'), ('room', 'wall'), ('lake', 'mountain')),
    ],
    ids=['sea-lake', 'road-floor', 'building-wall'],
)
def test_only_context_tells_pairs_apart(demo, first, second, control):
    first, second, control = (patches(demo, *it) for it in (first, second, control))
    assert told_apart(first, second) < 0.65
    assert told_apart(first, control) > 0.8


def test_second_call_leaves_the_data_alone(demo, data):
    before = [(path, path.stat().st_mtime_ns) for path in sorted(data.rglob('*'))]
    assert not demo.make_demo_data(data, num_train=8, num_val=4, size=SIZE)
    after = [(path, path.stat().st_mtime_ns) for path in sorted(data.rglob('*'))]
    assert before == after


def test_other_contents_are_refused_and_kept(demo, data, tmp_path):
    (tmp_path / 'thesis.txt').write_text('years of work')
    for folder in (tmp_path, data):  # foreign files, and a data set of other options
        before = digests(folder)
        with pytest.raises(SystemExit) as error:
            demo.main([str(folder), '--num-train', '9', '--size', '48x64'])
        assert 'holds something else' in str(error.value)
        assert '\n' not in str(error.value)
        assert digests(folder) == before


def test_interrupted_run_leaves_nothing(demo, tmp_path, monkeypatch):
    draw, drawn = demo.draw, []

    def interrupted(*args):
        if len(drawn) == 3:
            raise KeyboardInterrupt
        drawn.append(args)
        return draw(*args)

    monkeypatch.setattr(demo, 'draw', interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo.make_demo_data(tmp_path / 'demo', num_train=8, num_val=4, size=SIZE)
    assert len(drawn) == 3
    assert not list(tmp_path.iterdir())


def test_older_drawing_is_not_taken_for_new(demo, data, monkeypatch):
    monkeypatch.setattr(demo, 'DRAWING', demo.DRAWING + 1)
    with pytest.raises(FileExistsError, match='an older one'):
        demo.make_demo_data(data, num_train=8, num_val=4, size=SIZE)


def test_folder_that_cannot_be_made_is_one_line(demo, tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(SystemExit) as error:
        demo.main([str(tmp_path / 'file' / 'demo')])
    assert str(error.value).startswith('make_demo_data: error: ')
    assert str(tmp_path / 'file') in str(error.value)


@pytest.mark.parametrize(
    'arguments',
    [('--size', '240'), ('--size', '8x8'), ('--num-val', '0'), ('--seed', '-1')],
)
def test_bad_arguments_say_what_is_wrong(demo, tmp_path, capsys, arguments):
    with pytest.raises(SystemExit):
        demo.main([str(tmp_path / 'demo'), *arguments])
    assert repr(arguments[1]) in capsys.readouterr().err
    assert not (tmp_path / 'demo').exists()
