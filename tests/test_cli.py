"The command `msdn`: what it prints, what it writes, how it leaves, and what it makes of bad input."
import json
import resource
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from typer.testing import CliRunner

from msdn_nb.cli import app
from msdn_nb.crystal import Crystal, CrystalError, read_crystal, standard_cell
from msdn_nb.diffraction import DEFAULT, Detector, simulate, to_uint8
from msdn_nb.identify import IdentifyError, identify, image_patterns
from msdn_nb.sources import CrystalTable, TableError, crystal_row, write_crystals
from msdn_nb.training import RECIPES, Recipe, WeightsError, build_model, load_weights, save_weights, shipped_weights

EXAMPLES = Path(__file__).resolve().parent.parent/'examples'
SALT, PEROVSKITE, QUARTZ = (EXAMPLES/f'{name}.cif' for name in ('rock-salt_NaCl', 'perovskite_SrTiO3', 'quartz_SiO2'))
CIF = """data_x
_cell_length_a {a}
_cell_length_b 4.0
_cell_length_c {c}
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma {gamma}
_space_group_IT_number 1
loop_
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
{atoms}
"""
ATOMS = 'Na1 0 0 0\nCl1 0.5 0.5 0.5'
TOY = Recipe('toy', setup=replace(DEFAULT, detector=Detector(32)),
             model_args=dict(widths=(8, 8, 16, 16), depths=(1, 1, 1, 1), squeeze=8, hidden=16), epochs=1, batch_size=16)
KEYS = ['input', 'model', 'kind', 'candidates', 'crystal_systems', 'warnings'] # of images
STRUCTURE = [*KEYS, 'space_group', 'symprec']
bounded = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def cif(a=4.0, c=4.0, gamma=90, atoms=ATOMS): return CIF.format(a=a, c=c, gamma=gamma, atoms=atoms)


@pytest.fixture(scope='session')
def toy(tmp_path_factory):
    "Untrained weights of a small network: as a path, they can be given to --model."
    import torch
    torch.manual_seed(0)
    return save_weights(build_model(TOY), TOY, tmp_path_factory.mktemp('weights'))


@pytest.fixture(scope='session')
def table(tmp_path_factory):
    "Cubic crystals of three groups, 60 of each."
    rng, face = np.random.default_rng(0), np.array([[0, 0, 0], [0, .5, .5], [.5, 0, .5], [.5, .5, 0]])
    kinds = [([11, 17], [[0, 0, 0], [.5, .5, .5]]), ([29]*4, face), ([26]*2, [[0, 0, 0], [.5, .5, .5]])]
    rows = [crystal_row(Crystal(np.eye(3)*rng.uniform(3, 6), z, np.array(x)), f'{i}-{k}')
            for k, (z, x) in enumerate(kinds) for i in range(60)]
    path = tmp_path_factory.mktemp('table')/'cubic.parquet'
    write_crystals(path, rows)
    return path


def run(*args):
    "Exit code, stdout and stderr of a command, run within this process."
    done = CliRunner().invoke(app, [str(a) for a in args])
    if done.exception and not isinstance(done.exception, SystemExit): raise done.exception
    return done.exit_code, done.stdout, done.stderr


def run_json(*args):
    code, out, err = run(*args, '--json')
    return code, json.loads(out), err


def nothing_half_written(folder):
    assert not [p for p in Path(folder).rglob('*') if p.name.startswith('.') or '.part' in p.name or p.suffix == '.tmp']


# the command itself

def process(*args):
    return subprocess.run([sys.executable, '-c', 'from msdn_nb.cli import main; main()', *map(str, args)],
                          capture_output=True, text=True)


def test_help_comes_at_once():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = process('--help')
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (done.returncode == 0
            and all(c in done.stdout for c in ('identify', 'simulate', 'data', 'train', 'evaluate', 'bench')))
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1
    code = 'import sys, msdn_nb.cli; sys.exit(bool({"torch", "pymatgen", "numpy", "ase"} & set(sys.modules)))'
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0


def test_process(toy, tmp_path):
    "The whole way in a process of its own: stdout is one document, the bad file is on stderr."
    (tmp_path/'notes.txt').write_text('no structure')
    done = process('identify', SALT, tmp_path/'notes.txt', '--model', toy, '--json')
    good, bad = json.loads(done.stdout)
    assert (done.returncode == 1 and list(good) == STRUCTURE and list(bad) == ['input', 'error']
            and 'notes.txt' in done.stderr)


@pytest.mark.parametrize('args', [[], ['identify'], ['identify', SALT, '--nonsense'], ['identify', SALT, '--top', 0],
                                  ['identify', SALT, '--mc', -1], ['identify', SALT, '--plot', 'a.docx'],
    ['identify', SALT, '--grey', 'pink'], ['simulate', SALT], ['simulate', SALT, '--out', 'x', '--axis', '0,0,0'],
    ['simulate', SALT, '--out', 'x', '--setup', 'mine'], ['data', 'nowhere', '--out', 'x'],
    ['data', 'folder', '--out', 'x'], ['data', 'pyxtal', '--out', 'x', '--groups', 'all'], ['train'],
    ['evaluate', 'toy'], ['dance']])
def test_usage(args):
    code, out, err = run(*args)
    assert code == 2 and (args == [] or (out == '' and 'Usage' in err))


def test_version():
    import msdn_nb
    assert run('--version')[1].strip() == f'msdn_nb {msdn_nb.__version__}'


# identify

@pytest.mark.skipif('msdn-72' not in shipped_weights(), reason='the weights msdn-72 are not here')
def test_shipped_model():
    code, (salt, perovskite), err = run_json('identify', SALT, PEROVSKITE)
    assert (code == 0 and err == '' and salt['candidates'][0]['space_group'] == 225
            and salt['candidates'][0]['inseparable'] == [209, 216])
    assert 221 in [c['space_group'] for c in perovskite['candidates'][:2]]


def test_json(toy):
    code, (found,), err = run_json('identify', SALT, '--model', toy, '--top', 3)
    assert (code, err, list(found), found['kind'], found['model'], found['input'],
            len(found['candidates'])) == (0, '', STRUCTURE, 'structure', 'toy', str(SALT), 3)
    assert list(found['candidates'][0]) == ['space_group', 'symbol', 'crystal_system', 'probability', 'std',
                                            'inseparable']
    p = [c['probability'] for c in found['candidates']]
    assert (p == sorted(p, reverse=True) and abs(sum(found['crystal_systems'].values()) - 1) < 1e-4
            and len(found['crystal_systems']) == 7)


def test_text(toy):
    code, out, err = run('identify', SALT, PEROVSKITE, '--model', toy)
    ranked = [line.split()[0] for line in out.splitlines() if line.strip()[:1].isdigit()]
    assert code == 0 and str(SALT) in out and str(PEROVSKITE) in out and ranked == list('12345')*2


def test_dropout_is_seeded(toy):
    def std(seed):
        return [c['std'] for c in run_json('identify', SALT, '--model', toy, '--mc', 8, '--seed',
                                           seed)[1][0]['candidates']]
    assert std(1) == std(1) != std(2) and max(std(1)) > 0


def bad_files(folder):
    "Files that are no crystals: name, content, and a word of the message."
    many = '\n'.join(f'Na 0.{i:03} 0.{j} 0' for i in range(500) for j in range(10))
    return [('text.cif', 'two eggs\n', 'structure file'), ('empty.cif', '', 'empty'),
            ('noatoms.cif', cif(atoms=''), 'no atoms'), ('flat.cif', cif(gamma=180), 'volume'),
            ('zero.cif', cif(c=0), 'volume'), ('nan.cif', cif(a='nan'), 'cell_length_a'),
            ('einsteinium.cif', cif(atoms='Es1 0 0 0'), 'scattering factors'),
            ('crowd.vasp', 'crowd\n1.0\n90 0 0\n0 90 0\n0 0 90\nNa\n5000\nDirect\n'
             + '\n'.join(f'{i/25:.4f} {j/20:.4f} {k/10:.4f}' for i in range(25) for j in range(20) for k in range(10))
             + '\n', '5,000 atoms'),
            ('crowd.cif', cif(a=1900, c=9, atoms=many).replace('_b 4.0', '_b 30'), '5,000 atoms'),
            ('bytes.cif', '\0\1\2', 'binary'), ('scan.xrdml', '<xrdml/>', 'powder'), ('scan.xy', '1 2\n', 'powder')]


def test_bad_structures(toy, tmp_path):
    "Each is named with a remedy, alone or among others; the good ones are done."
    made = bad_files(tmp_path)
    for name, content, _ in made: (tmp_path/name).write_text(content)
    paths = [SALT, *(tmp_path/name for name, *_ in made), tmp_path/'absent.cif', tmp_path, PEROVSKITE]
    code, found, err = run_json('identify', *paths, '--model', toy)
    assert (code == 1 and [f['input'] for f in found] == [str(p) for p in paths]
            and all(list(f) == STRUCTURE for f in (found[0], found[-1])))
    words = [word for *_, word in made] + ['no such file', 'folder']
    for path, item, word in zip(paths[1:-1], found[1:-1], words):
        assert list(item) == ['input',
                              'error'] and word in item['error'] and str(path) in item['error'] and ';' in item['error'], item
        assert item['error'] in err
    assert len(err.strip().splitlines()) == len(paths) - 2


def test_unknown_group(toy):
    code, (quartz, salt), err = run_json('identify', QUARTZ, SALT, '--model', toy)
    assert code == 1 and 'error' not in salt and list(quartz) == STRUCTURE + ['error']
    assert ('spglib finds 154' in quartz['error'] and 'toy does not know' in quartz['error'] and str(QUARTZ) in err
            and len(quartz['candidates']) == 5)
    assert any('does not know' in w for w in quartz['warnings'])


def test_warnings(toy, tmp_path):
    (tmp_path/'mixed.cif').write_text(cif(atoms='Na1 0 0 0\nCl1 .4 .3 .2').replace('_atom_site_fract_z\n',
        '_atom_site_fract_z\n_atom_site_occupancy\n').replace('0 0 0', '0 0 0 0.5').replace('.2\n', '.2 1\n'))
    code, (found,), _ = run_json('identify', tmp_path/'mixed.cif', '--model', toy)
    assert code == 0 and any('occupancy' in w for w in found['warnings'])
    (tmp_path/'lone.cif').write_text(cif(c=5.1, a=4.4, gamma=97, atoms='Na1 0 0 0\nCl1 .4 .3 .2\nK1 .7 .1 .6'))
    assert any('no symmetry' in w for w in run_json('identify', tmp_path/'lone.cif', '--model', toy)[1][0]['warnings'])


# figures

def test_figures(toy, tmp_path):
    (tmp_path/'other').mkdir()
    copy = tmp_path/'other'/SALT.name
    copy.write_bytes(SALT.read_bytes())
    assert run('identify', SALT, '--model', toy, '--plot', tmp_path/'one.png')[0] == 0
    assert min(Image.open(tmp_path/'one.png').size) > 500
    assert run('identify', SALT, copy, '--model', toy, '--plot', tmp_path/'two.svg')[0] == 0
    assert run('identify', SALT, copy, '--model', toy, '--plot', tmp_path/'book.pdf')[0] == 0
    assert sorted(p.name for p in tmp_path.glob('*.*')) == ['book.pdf', 'one.png', f'two-{SALT.stem}-1.svg',
                                                            f'two-{SALT.stem}-2.svg']
    assert ((tmp_path/'book.pdf').read_bytes().count(b'/Type /Page\n') == 2
            or (tmp_path/'book.pdf').read_bytes().count(b'/Type /Page ') == 2)


def test_unwritable_figure(toy, tmp_path):
    (tmp_path/'file').write_text('')
    for target in (tmp_path/'absent'/'a.png', tmp_path/'file'/'a.png'):
        code, (found, failed), err = run_json('identify', SALT, '--model', toy, '--plot', target)
        assert (code == 1 and list(found) == STRUCTURE and failed['input'] == str(target) and str(target) in err
                and ';' in failed['error'])
    nothing_half_written(tmp_path)


# images

@pytest.fixture(scope='module')
def images(tmp_path_factory):
    "Rock salt as the toy model sees it, three PNG files of logarithmic grey."
    folder = tmp_path_factory.mktemp('images')
    for beam, image in zip('xyz', to_uint8(simulate([standard_cell(read_crystal(SALT))], TOY.setup)[0], 'log').numpy()):
        Image.fromarray(image).save(folder/f'{beam}.png')
    return [folder/f'{beam}.png' for beam in 'xyz']


def test_images_give_the_structures_answer(toy, images, tmp_path):
    array = np.stack([np.asarray(Image.open(p)) for p in images])
    np.savez(tmp_path/'all.npz', array)
    for k, beam in enumerate('xyz'):
        Image.fromarray(array[k].astype(np.uint16)*257).save(tmp_path/f'{beam}.tif')
        np.save(tmp_path/f'{beam}.npy', array[k])
        Image.fromarray(np.repeat(array[k][..., None], 3, -1)).save(tmp_path/f'{beam}_rgb.png')
    trios = [images, *([tmp_path/f'{beam}{end}' for beam in 'xyz'] for end in ('.tif', '.npy', '_rgb.png'))]
    code, (structure, *others), err = run_json('identify', SALT, *sum(trios, []), tmp_path/'all.npz', '--model', toy,
                                               '--grey', 'log', '--field-of-view', 1)
    assert (code == 0 and len(others) == 5 and all(o['kind'] == 'images' for o in others)
            and others[0]['input'] == ' '.join(map(str, images)))
    for other in others:
        assert [c['probability']
                for c in other['candidates']] == pytest.approx([c['probability'] for c in structure['candidates']],
                                                               abs=1e-4)


def test_images_of_another_detector():
    "A finer detector with a wider view gives nearly the same; without the field of view there is a warning."
    recipe, cell = RECIPES['msdn-72'], standard_cell(read_crystal(SALT))
    wide, own = (to_uint8(simulate([cell], replace(recipe.setup, detector=d))[0], 'log').numpy().astype(np.uint16)
                 for d in (Detector(250, 1.5), recipe.setup.detector))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        near = image_patterns(list(wide), recipe, 'log', 1.5)[1]; first = len(caught)
        far = image_patterns(list(wide), recipe, 'log')[1]
    said = [str(w.message) for w in caught]; assert first == 1 and 'do not say' in said[0]
    assert any('no field of view' in w for w in said[1:])
    def difference(a): return np.abs(a.astype(int) - own).mean()
    assert difference(near) < difference(far)/4, (difference(near), difference(far))


def wrong_images(folder, good):
    "Groups of three with a fault in the last, and a word of the message."
    image = np.asarray(Image.open(good[0]))
    faults = dict(small=(image[:20, :20], 'sizes'), wide=(image[:20], 'crop'),
                  colour=(np.stack([image, image//2, image], -1), 'colour'), blank=(image*0, 'blank'),
                  tiny=(image[:4, :4], 'at least 16'))
    for name, (array, word) in faults.items():
        Image.fromarray(array).save(folder/f'{name}.png')
        yield [*good[:2], folder/f'{name}.png'], word
    (folder/'cut.png').write_bytes(good[0].read_bytes()[:60])
    yield [*good[:2], folder/'cut.png'], 'not an image'
    yield [*good[:2], folder/'absent.png'], 'no such file'
    np.save(folder/'nan.npy', image*np.nan)
    yield [*good[:2], folder/'nan.npy'], 'not finite'
    yield good[:2], 'give three'


def test_wrong_images(toy, images, tmp_path):
    for group, word in wrong_images(tmp_path, images):
        code, (salt, found), err = run_json('identify', SALT, *group, '--model', toy)
        assert code == 1 and list(found) == ['input', 'error'] and list(salt) == STRUCTURE
        assert word in found['error'] and str(group[-1]) in found['error'] and ';' in found['error'], found


@bounded
@given(content=st.binary(max_size=300), name=st.sampled_from(['a.png', 'a.jpg', 'a.tif', 'a.npy', 'a.npz']),
       cut=st.integers(0, 200), whole=st.booleans())
def test_fuzzed_images(toy, images, tmp_path, content, name, cut, whole):
    (tmp_path/name).write_bytes(images[0].read_bytes()[:cut] + content if whole else content)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: identify([*images[:2], tmp_path/name], toy)
        except IdentifyError as e: assert name in str(e) and ';' in str(e)


# weights and tables

def test_damaged_weights(toy, table, tmp_path):
    cut, bare, other = tmp_path/'cut.safetensors', tmp_path/'bare.safetensors', tmp_path/'other.safetensors'
    cut.write_bytes(toy.read_bytes()[:-1000]); cut.with_suffix('.json').write_text(toy.with_suffix('.json').read_text())
    bare.write_bytes(toy.read_bytes())
    other.write_bytes(toy.read_bytes())
    other.with_suffix('.json').write_text(toy.with_suffix('.json').read_text().replace('"hidden": 16', '"hidden": 24'))
    for path in (cut, bare, other, tmp_path/'absent.safetensors', 'msdn-nothing'):
        code, found, err = run_json('identify', SALT, '--model', path)
        assert (code == 1 and list(found) == ['input', 'error'] and found['input'] == str(path)
                and Path(path).stem in found['error'] and Path(path).stem in err)
        assert run_json('evaluate', path, table)[0] == 1


@bounded
@given(data=st.data())
def test_fuzzed_weights(toy, tmp_path, data):
    "A cut or changed card or weights file is refused as such, or loads."
    weights, card = bytearray(toy.read_bytes()), bytearray(toy.with_suffix('.json').read_bytes())
    target = data.draw(st.sampled_from([weights, card]))
    i = data.draw(st.integers(0, min(len(target) - 1, 4000)))
    if data.draw(st.booleans()): del target[i:i + data.draw(st.integers(1, 50))]
    else: target[i] = data.draw(st.integers(0, 255))
    path = tmp_path/'a.safetensors'
    path.write_bytes(weights); path.with_suffix('.json').write_bytes(card)
    try: load_weights(str(path))
    except WeightsError as e: assert 'a.safetensors' in str(e)


def test_wrong_tables(toy, table, tmp_path):
    pq.write_table(pa.table({'a': [1, 2]}), tmp_path/'other.parquet')
    (tmp_path/'text.parquet').write_text('a,b\n1,2\n')
    (tmp_path/'cut.parquet').write_bytes(table.read_bytes()[:-100])
    for name, word in [('other', 'missing'), ('text', 'not a whole Parquet'), ('cut', 'not a whole Parquet'),
                       ('absent', 'no such file')]:
        path = tmp_path/f'{name}.parquet'
        for args in (['evaluate', toy, path], ['train', 'msdn-8', '--data', path, '--out', tmp_path/'out']):
            code, found, err = run_json(*args)
            assert (code == 1 and list(found) == ['input', 'error'] and word in found['error']
                    and str(path) in found['error'] and found['error'] in err)
    assert not list(tmp_path.rglob('*.safetensors'))


@bounded
@given(cut=st.integers(0, 3000), change=st.binary(max_size=20), keep=st.booleans())
def test_fuzzed_tables(table, tmp_path, cut, change, keep):
    content = table.read_bytes()
    (tmp_path/'a.parquet').write_bytes(content[:cut] + change + (content[cut + len(change):] if keep else b''))
    try: list(CrystalTable(tmp_path/'a.parquet'))
    except TableError as e: assert 'a.parquet' in str(e)
    except CrystalError as e: assert ';' in str(e)


def test_evaluate(toy, table):
    keys = ['model', 'n', 'skipped', 'top1', 'top2', 'top3', 'top4', 'top5', 'diffraction_class_top1',
            'crystal_system_top1', 'macro_f1', 'ece', 'structures_per_second']
    code, found, _ = run_json('evaluate', toy, table, '--sample', 30, '--workers', 1)
    assert (code == 0 and list(found) == keys and found['n'] == 30 and found['skipped'] == 0
            and all(0 <= found[k] <= 1 for k in keys[3:12]))
    again = run_json('evaluate', toy, table, '--sample', 30, '--workers', 1)[1]
    assert {**again, 'structures_per_second': 0} == {**found, 'structures_per_second': 0}
    code, out, _ = run('evaluate', toy, table, '--sample', 30, '--workers', 1)
    assert code == 0 and 'top-5' in out
    assert run_json('evaluate', toy, table, '--unseen')[0] == 1 # the toy was trained on nothing


def test_train(table, tmp_path, monkeypatch):
    "One epoch of a small recipe: weights, card and scores; then the same model scores the rows it never saw."
    monkeypatch.setitem(RECIPES, 'toy', TOY)
    code, found, err = run_json('train', 'toy', '--data', table, '--out', tmp_path, '--epochs', 1, '--workers', 1,
                                '--seed', 3)
    assert code == 0, err
    card = json.loads(Path(found['card']).read_text())
    assert (card['data']['file'] == table.name and card['data']['seed'] == 3 and card['data']['test'] == 18
            and card['scores']['n'] == 18 and card['temperature'] > 0)
    code, again, _ = run_json('evaluate', found['output'], table, '--unseen', '--workers', 1)
    assert code == 0 and again['n'] == 18 and again['top1'] == found['scores']['top1']
    nothing_half_written(tmp_path)
    assert run_json('train', 'unheard-of', '--data', table, '--out', tmp_path)[0] == 1


def test_own_rows_stay_apart(table, tmp_path):
    "A training with rows of its own is finished with them alone, and never judged by rows that it learned from."
    from msdn_nb.evaluation import finish_training
    from msdn_nb.sources import CrystalTable
    from msdn_nb.training import split_of, split_rows, train
    crystals = CrystalTable(table); learned, valid, test = split_rows(crystals, TOY, 0)
    mine = np.concatenate([learned[:-30], test]), valid, learned[-30:]
    learn = train(TOY, crystals, tmp_path/'run', workers=1, rows=mine[:2])
    for rows in (None, (*mine[:2], test), (learned, valid, mine[2])):
        with pytest.raises(ValueError, match='rows='):
            finish_training(learn, TOY, crystals, tmp_path/'run', tmp_path, workers=1, rows=rows)
    path, scored = finish_training(learn, TOY, crystals, tmp_path/'run', tmp_path, workers=1, rows=mine)
    assert np.array_equal(scored.rows, mine[2])
    with pytest.raises(ValueError, match='rows that were given'): split_of(load_weights(path), crystals)


def test_train_goes_on_from_weights(table, tmp_path, monkeypatch):
    "Weights to begin with, the cache of an earlier training and another rate; the card tells all of it"
    monkeypatch.setitem(RECIPES, 'toy', TOY)
    common = ['--data', table, '--epochs', 1, '--workers', 1, '--seed', 3]
    first = run_json('train', 'toy', '--out', tmp_path/'one', *common)[1]['output']
    code, found, err = run_json('train', 'toy', '--out', tmp_path/'two', '--start', first, '--cache',
                                tmp_path/'one/toy.run/cache', '--lr', 1e-4, *common)
    assert code == 0, err
    card = json.loads(Path(found['card']).read_text())
    assert (card['started_from']['name'] == 'toy' and card['recipe']['lr'] == 1e-4 and '--lr 0.0001' in card['command']
            and '--start toy.safetensors' in card['command'])
    assert not (tmp_path/'two/toy.run/cache').exists() and str(tmp_path) not in json.dumps(card)
    assert run_json('train', 'toy', '--out', tmp_path/'three', '--start', 'powder-230', *common)[0] == 1
    code, found, err = run_json('train', 'powder-230', '--out', tmp_path/'four', '--data', table, '--cache',
                                tmp_path/'one/toy.run/cache')
    assert code == 1 and 'leave out --cache' in found['error']


# simulate and data

def test_simulate(tmp_path):
    (tmp_path/'bad.cif').write_text('no')
    code, (salt, bad, again), err = run_json('simulate', SALT, tmp_path/'bad.cif', SALT, '--out', tmp_path/'o',
                                             '--pixels', 40, '--axis', 'z', '--axis', '1,1,0', '--size', 20)
    assert code == 1 and list(bad) == ['input', 'error'] and 'bad.cif' in err
    names = {f'{SALT.stem}_z_raw.png', f'{SALT.stem}_z_shaped.png', f'{SALT.stem}_110_raw.png',
             f'{SALT.stem}_110_shaped.png', f'{SALT.stem}.npz'}
    assert {Path(f).name for f in salt['files']} == names and not set(salt['files']) & set(again['files'])
    assert {p.name for p in (tmp_path/'o').iterdir()} == {Path(f).name for f in salt['files'] + again['files']}
    with np.load(tmp_path/'o'/f'{SALT.stem}.npz', allow_pickle=False) as held:
        assert held['intensity'].shape == (2, 40, 40) and held['shaped'].shape == (2, 40, 40, 3)
    assert Image.open(tmp_path/'o'/f'{SALT.stem}_z_shaped.png').size == (40, 40)


def test_simulate_writes_all_or_nothing(tmp_path, monkeypatch):
    def save(self, part, **kwargs):
        Path(part).write_bytes(b'half')
        raise OSError('no space left on device')
    (tmp_path/'file').write_text('')
    for out in (tmp_path/'file', tmp_path/'file'/'deeper'):
        code, found, err = run_json('simulate', SALT, '--out', out)
        assert code == 1 and str(out) in found['error'] and str(out) in err
    monkeypatch.setattr(Image.Image, 'save', save)
    code, (found,), err = run_json('simulate', SALT, '--out', tmp_path/'o', '--pixels', 32)
    assert code == 1 and 'no space left' in found['error'] and list((tmp_path/'o').iterdir()) == []


@pytest.mark.parametrize('args,told', [(['--wavelength', -1], 'wavelength'), (['--size', 0], 'size'),
                                       (['--field-of-view', 0], 'field-of-view'), (['--axis', 'x', '--axis', 'x'], 'twice')])
def test_impossible_options(args, told, tmp_path):
    code, out, err = run('simulate', SALT, '--out', tmp_path/'o', '--pixels', 16, *args)
    assert code == 2 and told in err and not (tmp_path/'o').exists()


@pytest.mark.parametrize('args', [['--field-of-view', 25], ['--factor', 0]])
def test_impossible_setups(args, tmp_path):
    code, found, err = run_json('simulate', SALT, '--out', tmp_path, '--pixels', 16, *args)
    assert code == 1 and 'error' in found[0] and err and not list(tmp_path.glob('*.png'))


def test_data(tmp_path):
    (tmp_path/'in').mkdir()
    (tmp_path/'in'/'salt.cif').write_bytes(SALT.read_bytes()); (tmp_path/'in'/'bad.cif').write_text('no')
    code, found, err = run_json('data', 'folder', tmp_path/'in', '--out', tmp_path/'a.parquet')
    assert code == 1 and found['n'] == 1 and found['failed'][0]['input'] == 'bad' and 'bad' in err
    assert CrystalTable(tmp_path/'a.parquet').space_group.tolist() == [225]
    code, found, err = run_json('data', 'folder', tmp_path/'in', '--out', tmp_path/'absent'/'a.parquet')
    assert code == 1 and list(found) == ['input', 'error'] and 'absent' in err
    nothing_half_written(tmp_path)


def test_bench(monkeypatch):
    import msdn_nb.bench
    monkeypatch.setattr(msdn_nb.bench, 'run_bench',
                        lambda quick, out, seed, report: dict(quick=quick, seed=seed, shaping=dict(ratio=4000.)))
    assert run_json('bench', '--quick', '--seed', 5)[:2] == (0, dict(quick=True, seed=5, shaping=dict(ratio=4000.)))
    code, out, _ = run('bench')
    assert code == 0 and '4,000.0 times faster' in out
