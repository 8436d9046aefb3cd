"""The catalogue, and that what it says of the configs is so."""

import re

import pytest
import yaml

from attn_plugins.cli import configs

CATALOGUE = configs.read_catalogue()
# One of each host and method, and those that count in a way of their own.
COUNTED = (
    'eanet_r50_voc_os16',
    'mask-rcnn_r50-dcn_coco_20e',
    'eamlp7_in1k_384',
    'lesa-r50_in1k',
)


@pytest.fixture(scope='module')
def metafile(request):
    """The tool that writes the file, as a module."""
    pytest.importorskip('mmseg')
    pytest.importorskip('mmdet')
    pytest.importorskip('mmpretrain')
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(request.config.rootpath / 'tools')
        import metafile

        yield metafile


@pytest.fixture(scope='module')
def content(request):
    text = (request.config.rootpath / 'configs/metafile.yml').read_text()
    return yaml.safe_load(text)


def test_every_config_is_listed_and_exists(repo, content):
    names = {path.stem for path in (repo / 'configs').glob('*.py')}
    assert set(CATALOGUE) == names, 'run tools/metafile.py'
    for model in content['Models']:
        assert model['Config'] == f'configs/{model["Name"]}.py'


def test_collections_exist(repo, content):
    collections = {collection['Name'] for collection in content['Collections']}
    assert {model['In Collection'] for model in content['Models']} == collections
    for collection in content['Collections']:
        assert re.fullmatch(r'https://arxiv\.org/abs/\d{4}\.\d{5}', _url(collection))
        assert (repo / collection['README']).is_file()


def _url(collection):
    return collection['Paper']['URL']


def test_no_weights_and_no_unmarked_figure(content):
    for model in content['Models']:
        assert 'Weights' not in model
        for result in model.get('Results', ()):
            assert all(metric.startswith('printed ') for metric in result['Metrics'])


def test_model_index_has_all_of_it(repo, monkeypatch):
    modelindex = pytest.importorskip('modelindex.load_model_index')
    monkeypatch.chdir(repo)
    index = modelindex.load(str(repo / 'model-index.yml'))
    index.build_models_with_collections()
    assert {model.name for model in index.models} == set(CATALOGUE)


@pytest.mark.parametrize('name', sorted(CATALOGUE))
def test_figures_are_those_of_the_config(metafile, name):
    """The head of each config is where a printed figure is corrected."""
    text = metafile.header(name)
    entry = CATALOGUE[name]
    figures = {
        metric.removeprefix('printed '): value
        for result in metafile.results(name, text)
        for metric, value in result['Metrics'].items()
    }
    assert entry.printed == figures
    assert entry.table == metafile.paper_table(text)
    assert entry.method == metafile.collection(name)
    assert entry.dataset == metafile.dataset(name)


@pytest.mark.parametrize(
    ('name', 'table', 'figures'),
    [
        ('eanet_r101_ade20k', 'Table VI', {'mIoU': 45.33}),
        ('mask-rcnn-ea_r50_coco', 'Tables III, IV', {'box AP': 39.0, 'mask AP': 35.4}),
        ('lesa-r50_in1k', 'Tables 2, 6', {'top-1': 79.55, 'top-5': 94.79}),
        ('htc_lesa-wrn50-dcn_coco_20e', 'Table 3', {'box AP': 48.8, 'mask AP': 43.0}),
        ('eamlp-bn14_in1k', 'Table II', {}),
        ('gsa-r50_in1k', 'Figure 2, Tables 3 to 5', {}),
        ('mask-rcnn_gsa-r50_coco', '', {}),
    ],
)
def test_figures_are_those_of_the_papers(name, table, figures):
    assert (CATALOGUE[name].table, CATALOGUE[name].printed) == (table, figures)


@pytest.mark.slow
@pytest.mark.parametrize('name', COUNTED)
def test_counts_are_right(metafile, name):
    entry, cost = CATALOGUE[name], metafile.cost(name)
    assert (entry.params, entry.macs) == (cost['Parameters'], cost['FLOPs'])


def test_list_filters(capsys):
    configs.main(['list', '--method', 'lesa', '--dataset', 'coco', '--host', 'mmdet'])
    *rows, last = capsys.readouterr().out.splitlines()
    assert last.startswith(f'{len(rows) - 1} configs')
    assert all('COCO' in row and 'mmdet' in row for row in rows[1:])
    assert any('40.3 box AP, 36.5 mask AP' in row for row in rows)
    configs.main(['list'])
    assert len(capsys.readouterr().out.splitlines()) == len(CATALOGUE) + 2


def test_show_prints_facts_and_text(repo, capsys):
    configs.main(['show', 'eanet_r101_ade20k.py'])
    out = capsys.readouterr().out
    assert 'Table VI: 45.33 mIoU (printed there, not run here)' in out
    assert (repo / 'configs/eanet_r101_ade20k.py').read_text() in out


def test_show_resolved_has_the_stock_base(capsys):
    pytest.importorskip('mmseg')
    configs.main(['show', 'eanet_r101_ade20k', '--resolved'])
    assert "type='EncoderDecoder'" in capsys.readouterr().out


def test_copy_brings_the_bases_of_ours(tmp_path, capsys):
    configs.main(['copy', 'eanet_r50_voc_os16-s8', str(tmp_path / 'mine')])
    names = {path.stem for path in (tmp_path / 'mine').iterdir()}
    assert names == {
        'eanet_r50_voc_os16-s8',
        'eanet_r50_voc_os16',
        'eanet_r50_voc',
        'eanet_r101_voc',
    }
    assert 'mim train mmseg' in capsys.readouterr().out


def test_copy_is_the_same_config(tmp_path):
    pytest.importorskip('mmseg')
    config = pytest.importorskip('mmengine.config').Config
    path, *_ = configs.copy('eanet_r50_voc_os16-s8', tmp_path)
    original = config.fromfile(CATALOGUE['eanet_r50_voc_os16-s8'].path)
    assert config.fromfile(path).to_dict() == original.to_dict()


def test_copy_overwrites_nothing(tmp_path):
    configs.copy('mask-rcnn_lesa-r50_coco', tmp_path)
    configs.copy('mask-rcnn_lesa-r50_coco', tmp_path)  # the same once more
    mine = tmp_path / 'mask-rcnn_r50_coco.py'
    mine.write_text('# mine\n')
    with pytest.raises(ValueError, match=r'mask-rcnn_r50_coco\.py exists and differs'):
        configs.copy('mask-rcnn_lesa-r50_coco', tmp_path)
    assert mine.read_text() == '# mine\n'


def test_typo_is_one_line_with_the_closest_name():
    with pytest.raises(SystemExit, match='did you mean eanet_r101_ade20k'):
        configs.main(['show', 'eanet_r01_ade20k'])
