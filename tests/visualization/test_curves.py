"""Curves: the numbers of mmengine's log, on axes that say what they are."""

import json

import pytest

from attn_plugins.visualization import (
    main_metrics,
    read_run,
    read_scalars,
    series,
    training_curves,
)

# As mmengine 0.10.7 writes it: training and validation records in one file.
LOG = [
    {'lr': 0.01, 'loss': 2.5, 'time': 0.4, 'iter': 10, 'step': 10},
    {'lr': 0.008, 'loss': 1.5, 'time': 0.4, 'iter': 20, 'step': 20},
    {'aAcc': 80.0, 'mIoU': 55.0, 'mAcc': 60.0, 'step': 20},
    {'lr': 0.005, 'loss': 1.0, 'time': 0.4, 'iter': 30, 'step': 30},
]


def drawn(axes):
    return [tuple(map(list, line.get_data())) for line in axes.lines]


def test_read_scalars_reads_what_mmengine_writes(tmp_path):
    """Through mmengine's own writer, so that a change of its format is seen."""
    backend = pytest.importorskip('mmengine.visualization').LocalVisBackend(tmp_path)
    backend.add_scalars({'lr': 0.01, 'loss': 2.5}, step=10)
    backend.add_scalars({'mIoU': 55.0}, step=10)
    records = read_scalars(tmp_path / 'scalars.json')
    assert records == [
        {'lr': 0.01, 'loss': 2.5, 'step': 10},
        {'mIoU': 55.0, 'step': 10},
    ]


def test_read_scalars_names_the_bad_line(tmp_path):
    path = tmp_path / 'scalars.json'
    for rest in ('\n', '\n{"lr": 0.1}', '\n{"lr": 0.'):
        path.write_text(json.dumps(LOG[0]) + '\n{"lr": 0.0' + rest)
        with pytest.raises(ValueError, match=r'scalars\.json, line 2, is not JSON'):
            read_scalars(path)


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path):
    """As after kill -9."""
    path = tmp_path / 'scalars.json'
    path.write_text(json.dumps(LOG[0]) + '\n{"lr": 0.0')
    assert read_scalars(path) == LOG[:1]
    path.write_text(json.dumps(LOG[0]) + '\n' + json.dumps(LOG[1]))
    assert read_scalars(path) == LOG[:2]
    path.write_text('{"lr": 0.0')
    with pytest.raises(ValueError, match='has logged nothing yet'):
        read_scalars(path)


def test_read_scalars_refuses_an_empty_log(tmp_path):
    path = tmp_path / 'scalars.json'
    path.touch()
    with pytest.raises(ValueError, match='has logged nothing yet'):
        read_scalars(path)


def test_series_picks_the_records_that_have_the_key():
    assert series(LOG, 'loss') == ([10, 20, 30], [2.5, 1.5, 1.0])
    assert series(LOG, 'mIoU') == ([20], [55.0])
    assert series(LOG, 'bbox_mAP') == ([], [])


def test_training_curves_draws_the_series():
    figure = training_curves({'EANet': LOG})
    loss, rate, miou = figure.axes
    assert drawn(loss) == [([10, 20, 30], [2.5, 1.5, 1.0])]
    assert drawn(rate) == [([10, 20, 30], [0.01, 0.008, 0.005])]
    assert drawn(miou) == [([20], [55.0])]
    assert miou.get_ylim() == (0, 100)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ['training loss', 'learning rate', 'validation mIoU (%)']
    assert {axes.get_xlabel() for axes in figure.axes} == {'iteration'}
    assert figure.get_size_inches().tolist() == pytest.approx([10.2, 2.8])
    assert not figure.legends


def test_a_single_validation_is_visible():
    """A line through one point alone would draw nothing."""
    miou = training_curves({'EANet': LOG}).axes[2]
    assert miou.lines[0].get_marker() == 'o'


def test_runs_keep_their_colours_and_share_a_legend():
    figure = training_curves({'EANet': LOG, 'FCN': LOG[:2]}, keys=('loss', 'mIoU'))
    loss, miou = figure.axes
    assert drawn(loss)[1] == ([10, 20], [2.5, 1.5])
    colours = [[line.get_color() for line in axes.lines] for axes in (loss, miou)]
    assert colours[0] == colours[1]
    assert len(set(colours[0])) == 2
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ['EANet', 'FCN']


def test_a_scalar_that_no_run_has_is_said_to_be_missing():
    missing = training_curves({'EANet': LOG}, keys=('bbox_mAP',)).axes[0]
    assert [text.get_text() for text in missing.texts] == ['not logged']
    assert not training_curves({'EANet': LOG}).axes[0].texts


def write_logs(folder, *logs):
    for number, log in enumerate(logs):
        path = folder / f'2026010{number}_000000/vis_data/scalars.json'
        path.parent.mkdir(parents=True)
        path.write_text(''.join(f'{json.dumps(record)}\n' for record in log))


def train(*steps, loss=1.0):
    return [{'loss': loss, 'lr': 0.1, 'iter': step, 'step': step} for step in steps]


def test_a_resumed_run_is_one_run(tmp_path):
    """What was logged after the checkpoint that it resumed from is logged anew."""
    first = [*train(10, 20), {'mIoU': 30.0, 'step': 20}, *train(30)]
    write_logs(tmp_path, first, [*train(30, 40, loss=0.5), {'mIoU': 50.0, 'step': 40}])
    records = read_run(tmp_path)
    assert series(records, 'loss') == ([10, 20, 30, 40], [1.0, 1.0, 0.5, 0.5])
    assert series(records, 'mIoU') == ([20, 40], [30.0, 50.0])


def test_a_run_that_starts_again_replaces_the_old_one(tmp_path):
    write_logs(tmp_path, train(10, 20, 30), train(10, 20, loss=0.5))
    assert series(read_run(tmp_path), 'loss') == ([10, 20], [0.5, 0.5])


def test_logs_of_tests_are_left_out(tmp_path):
    write_logs(tmp_path, train(10), [{'mIoU': 50.0, 'step': 0}])
    assert series(read_run(tmp_path), 'mIoU') == ([], [])


def test_a_folder_without_a_log(tmp_path):
    with pytest.raises(ValueError, match='holds no log'):
        read_run(tmp_path)
    write_logs(tmp_path, [{'mIoU': 50.0, 'step': 0}])
    with pytest.raises(ValueError, match='no training'):
        read_run(tmp_path)


def test_accuracies_of_pixels_have_titles_and_per_cent():
    figure = training_curves({'EANet': LOG}, ('aAcc', 'mAcc'))
    assert [axes.get_title() for axes in figure.axes] == [
        'validation pixel accuracy (%)',
        'validation class accuracy (%)',
    ]
    assert [axes.get_ylim() for axes in figure.axes] == [(0, 100)] * 2


def test_main_metrics():
    assert main_metrics([LOG]) == ['mIoU']
    boxes = [{'coco/bbox_mAP_50': 0.5, 'coco/bbox_mAP': 0.3, 'step': 1}]
    assert main_metrics([boxes, LOG]) == ['mIoU', 'coco/bbox_mAP']
    assert main_metrics([[{'time': 1.0, 'my/score': 0.3, 'step': 1}]]) == ['my/score']
    assert main_metrics([LOG[:1]]) == []


def test_epoch_based_runs_count_validations_in_epochs():
    log = [
        {'loss': 1.0, 'epoch': 1, 'iter': 50, 'step': 50},
        {'accuracy/top1': 70.0, 'step': 1},
    ]
    figure = training_curves({'run': log}, ('loss', 'accuracy/top1'))
    assert [axes.get_xlabel() for axes in figure.axes] == ['iteration', 'epoch']
    figure = training_curves({'run': log, 'other': LOG}, ('loss', 'mIoU'))
    assert [axes.get_xlabel() for axes in figure.axes] == ['iteration'] * 2


def test_many_runs_and_scalars_stay_apart():
    runs = {f'run {number}': LOG for number in range(12)}
    figure = training_curves(runs, ('loss', 'lr', 'mIoU', 'aAcc', 'mAcc'))
    lines = figure.axes[0].lines
    styles = {(line.get_color(), line.get_linestyle()) for line in lines}
    assert len(styles) == 12
    assert len(figure.axes) == 8  # two rows of four
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert legend.y0 >= 0
    assert legend.y1 <= min(axes.get_tightbbox().y0 for axes in figure.axes[4:5]) + 1
