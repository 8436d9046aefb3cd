"""The documentation: its site builds, and fetches nothing."""

import re
import subprocess
import sys

import pytest
import yaml


@pytest.fixture(scope='module')
def site(request, tmp_path_factory):
    pytest.importorskip('mkdocs')
    folder = tmp_path_factory.mktemp('site')
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '-d', folder]
    result = subprocess.run(
        command, cwd=request.config.rootpath, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.mark.slow
def test_builds_without_warnings(site):
    assert (site / 'index.html').is_file()


@pytest.mark.slow
def test_pages_fetch_nothing(site):
    """No font, script, style or picture of another address."""
    fetched = re.compile(r'(?:src=|@import |url\()["\']?(?:https?:)?//[^"\' )]+')
    for path in [*site.rglob('*.html'), *site.rglob('*.css')]:
        assert not fetched.findall(path.read_text()), path.name
        for link in re.findall(r'<link [^>]+>', path.read_text()):
            assert 'canonical' in link or '//' not in link


@pytest.mark.slow
def test_formulas_are_drawn(site):
    for name in ('external_attention', 'lesa', 'gsa'):
        text = (site / f'{name}.html').read_text()
        assert '<math' in text
        assert 'language-math' not in text


@pytest.mark.slow
def test_zoo_lists_every_config(repo, site):
    text = (site / 'model_zoo.html').read_text()
    names = {path.stem for path in (repo / 'configs').glob('*.py')}
    assert names <= set(re.findall(r'<code>([^<]+)</code>', text))


@pytest.mark.slow
def test_api_shows_arguments_and_shapes(site):
    text = (site / 'api/modules.html').read_text()
    for name in ('LESA2d', 'GlobalSelfAttention', 'ExternalAttention2d'):
        assert f'attn_plugins.modules.{name}' in text or f'.{name}"' in text
    assert '(B, C, H, W)' in text


def test_citation_names_the_three_papers(repo):
    text = (repo / 'CITATION.cff').read_text()
    citation = yaml.safe_load(text)
    urls = {reference['url'] for reference in citation['references']}
    metafile = yaml.safe_load((repo / 'configs/metafile.yml').read_text())
    assert urls == {c['Paper']['URL'] for c in metafile['Collections']}
    assert (
        f"__version__ = '{citation['version']}'"
        in (repo / 'attn_plugins/version.py').read_text()
    )


@pytest.mark.parametrize('name', ['README.md', 'CONTRIBUTING.md'])
def test_links_outside_of_the_site(name, repo):
    """What they name is there, with the section; mkdocs looks at docs/ alone."""
    for target in re.findall(
        r'\]\((?!https?:)([^)#\s]*)(#[^)\s]+)?\)', read(repo / name)
    ):
        path, section = repo / (target[0] or name), target[1]
        assert path.exists(), target
        if section:
            titles = re.findall(r'^#+ (.+)$', read(path), re.MULTILINE)
            slugs = [
                re.sub(r'[^\w\- ]', '', t.lower()).replace(' ', '-') for t in titles
            ]
            assert section[1:] in slugs, target


def read(path):
    return path.read_text(encoding='utf-8')
