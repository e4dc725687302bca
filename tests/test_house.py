"""What holds the repository together beyond the lessons: the site's configuration, the metadata and the wheel."""
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT/'nbs'
NOT_SOURCE = shutil.ignore_patterns('.*', '_*', 'runs', 'build', 'dist', '*.egg-info', 'results', 'nbs', '__pycache__')


def notebooks():
    return sorted(p.relative_to(NBS).as_posix() for p in NBS.rglob('*.ipynb')
                  if not any(q[0] in '._' for q in p.relative_to(NBS).parts))


def settings():
    config = ConfigParser(interpolation=None)
    config.read(ROOT/'settings.ini', encoding='utf-8')
    return config


def sidebar_pages(contents):
    for entry in contents:
        if isinstance(entry, str): yield entry
        else: yield from sidebar_pages(entry.get('contents', []))


def test_sidebar_lists_every_notebook_once_and_in_order():
    site = yaml.safe_load((ROOT/'_quarto.yml').read_text(encoding='utf-8'))
    pages = list(sidebar_pages(site['website']['sidebar']['contents']))
    assert pages[0] == 'index.ipynb'
    assert pages[1:] == [n for n in notebooks()
                         if n != 'index.ipynb'], 'make the sidebar in _quarto.yml follow the notebooks'


def test_site_is_configured_by_the_top_level_file(tmp_path):
    "nbdev stages `nbs/` for Quarto; a change at the top has to arrive there."
    nbs = tmp_path/'nbs'
    shutil.copy(ROOT/'pyproject.toml', tmp_path)
    (nbs/'experiments').mkdir(parents=True)
    for name in ('index.ipynb', 'experiments/log.ipynb'): shutil.copy(NBS/name, nbs/name)
    (nbs/'_quarto.yml').symlink_to(os.readlink(NBS/'_quarto.yml'))
    changed = (ROOT/'_quarto.yml').read_text(encoding='utf-8')+'\n# changed\n'
    (tmp_path/'_quarto.yml').write_text(changed, encoding='utf-8')
    code = 'from nbdev.quarto import refresh_quarto_yml; from nbdev.serve import proc_nbs; refresh_quarto_yml(); proc_nbs(n_workers=0)'
    subprocess.run([sys.executable, '-c', code], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path/'_proc/_quarto.yml').read_text(encoding='utf-8') == changed
    assert ((tmp_path/'_proc/index.ipynb').exists() and (tmp_path/'_proc/experiments/log.ipynb').exists()
            and not (nbs/'sidebar.yml').exists())


def prose(name):
    "The Markdown of a notebook"
    cells = json.loads((NBS/name).read_text(encoding='utf-8'))['cells']
    return '\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown')


def anchors(text):
    "The anchors that the site gives to the headings of a notebook"
    named = [re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', h).lower().strip() for h in re.findall(r'^#+ (.+)$', text, re.M)]
    return {re.sub(r'^[^a-z]+', '', re.sub(r'[^\w\s.-]', '', h).replace(' ', '-')) for h in named}


def test_links_between_notebooks_lead_somewhere():
    "Notebooks in `nbs/experiments` link to the chapters one folder up, and the other way round; headings that are named exist"
    assert anchors('# What is [here](there.ipynb)?\n\n## 2. A `name`, and more') == {'what-is-here', 'a-name-and-more'}
    for name in notebooks():
        for link, anchor in re.findall(r'\]\(([^)\s#:]*\.ipynb)?(?:#([^)\s]+))?\)', prose(name)):
            there = (NBS/name).parent.joinpath(link).resolve() if link else NBS/name
            assert there.exists(), f'{name} links to {link}, which is not there'
            if anchor:
                assert anchor in anchors(prose(there.relative_to(NBS).as_posix())), f'{name} links to {link}#{anchor}, no heading'


def test_every_module_comes_from_a_notebook():
    exported = {match[1] for n in notebooks()
                for match in [re.search(r'#\|\s*default_exp\s+(\w+)', (NBS/n).read_text(encoding='utf-8'))] if match}
    assert {p.stem for p in (ROOT/'msdn_nb').glob('*.py') if p.name[0] != '_'} == exported


def test_metadata_stands_in_one_place():
    import tomllib
    tools = tomllib.loads((ROOT/'pyproject.toml').read_text(encoding='utf-8'))
    assert set(tools) == {'build-system', 'tool'}
    assert 'version' not in settings()['package']
    assert all('title' in r and 'authors' in r
               for r in yaml.safe_load((ROOT/'CITATION.cff').read_text(encoding='utf-8'))['references'])


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "The wheel, built from a copy so that the tree stays clean."
    folder = tmp_path_factory.mktemp('wheel')
    shutil.copytree(ROOT, folder/'source',
                    ignore=lambda d, names: set(NOT_SOURCE(d, names))-{'__init__.py', '_modidx.py'})
    done = subprocess.run([sys.executable, '-m', 'pip', 'wheel', '.', '--no-deps', '--no-build-isolation', '-q', '-w',
                           str(folder)], cwd=folder/'source', capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(folder.glob('*.whl'))) as archive:
        record = next(n for n in archive.namelist() if n.endswith('/METADATA'))
        points = next(n for n in archive.namelist() if n.endswith('/entry_points.txt'))
        yield archive.namelist(), Parser().parsestr(archive.read(record).decode()), archive.read(points).decode()


def test_wheel_holds_code_weights_data_and_examples(wheel):
    names, _, points = wheel
    shipped = [p for folder in ('weights', 'data') for p in (ROOT/'msdn_nb'/folder).glob('*') if p.is_file()]
    shipped += [p for p in (ROOT/'msdn_nb').glob('*.py')]
    for path in shipped: assert path.relative_to(ROOT).as_posix() in names
    for path in (ROOT/'examples').glob('*.cif'): assert f'msdn_nb/examples/{path.name}' in names
    assert any(n.endswith('licenses/LICENSE') for n in names)
    assert 'msdn = msdn_nb.cli:main' in points and 'msdn_nb = msdn_nb._modidx:d' in points


def test_wheel_says_what_settings_say(wheel):
    _, metadata, _ = wheel
    import msdn_nb
    package, wanted = settings()['package'], settings()['requirements']
    assert metadata['Name'] == package['name'] and metadata['Version'] == msdn_nb.__version__
    assert metadata['Summary'] == package['description'] and metadata['Requires-Python'] == package['python']
    assert set(metadata.get_all('Provides-Extra')) == set(settings()['extras'])
    plain = [r for r in metadata.get_all('Requires-Dist') if 'extra ==' not in r]
    assert len(plain) == sum(len(text.split('\n'))-1 for text in wanted.values())


def test_weights_stay_small_and_each_has_its_card():
    weights = sorted((ROOT/'msdn_nb/weights').glob('*.safetensors'))
    assert sum(p.stat().st_size for p in weights) < 40e6
    for path in weights: assert json.loads(path.with_suffix('.json').read_text(encoding='utf-8'))


def test_readme_turns_links_and_keeps_code():
    sys.path.insert(0, str(ROOT/'tests'))
    try: import readme
    finally: sys.path.pop(0)
    assert readme.from_top('[a](00_symmetry.ipynb) ![b](pic.png) [c](../CITATION.cff) [d](https://x.org) `[e](f)`') == \
        '[a](nbs/00_symmetry.ipynb) ![b](nbs/pic.png) [c](CITATION.cff) [d](https://x.org) `[e](f)`'
    cells = [dict(cell_type='markdown', source='# T\n\n> s'), dict(cell_type='code', source='#| hide\n1', outputs=[]),
             dict(cell_type='code', source=['#| echo: false\n', '2'],
                  outputs=[dict(output_type='execute_result', data={'text/plain': ['2']})])]
    assert readme.render(dict(cells=cells)).split('\n\n', 1)[1] == '# T\n\n> s\n\n```\n2\n```\n'
