"Powder patterns from the shell: read, answered, refused, simulated, trained on and scored."
import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image

from msdn_nb.crystal import Crystal, read_crystal, standard_cell
from msdn_nb.identify import Identification, identify
from msdn_nb.measured import read_powder
from msdn_nb.powder import Instrument, PowderError, PowderPattern, powder_pattern
from msdn_nb.powder_model import (POWDER_MODELS, PowderModelRecipe, PowderNet, extinction_class, load_powder, save_powder,
                                  shipped_powder)
from msdn_nb.sources import crystal_row, write_crystals
from test_cli import EXAMPLES, KEYS, PEROVSKITE, SALT, nothing_half_written, run, run_json

CORUNDUM = EXAMPLES/'corundum_Al2O3.cif'
CELL = '4.7589 4.7589 12.9911 90 90 120'
CU = Instrument(alpha2=.5, w=.012, u=.02, two_theta=(10, 90), background=(6, -3), counts=5000, seed=1)
MO = replace(CU, wavelength=.709317, wavelength2=.713607, two_theta=(4.5, 40), step=.01, w=.003, u=.005)
SMALL = dict(widths=(8, 8, 8, 8, 16), blocks=(0, 0, 0, 0, 0), squeeze=8, hidden=32)
TOY = PowderModelRecipe('toy-powder', model_args=SMALL, batch_size=16, law_lists=20, epochs=1, lr=1e-2)
shipped = pytest.mark.skipif('powder-230' not in shipped_powder(), reason='the weights powder-230 are not here')
bounded = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def pattern(file, instrument=CU): return powder_pattern(standard_cell(read_crystal(file)), instrument)
def lines(p, decimal='.', mark=' '):
    return '\n'.join(f'{a:.3f}{mark}{b:.1f}'.replace('.', decimal) for a, b in zip(p.two_theta, p.intensity))
def probabilities(found): return [c['probability'] for c in found['candidates']]


@pytest.fixture(scope='session')
def toy(tmp_path_factory):
    "Untrained weights of a small powder network: as a path, they can be given to --model."
    torch.manual_seed(0)
    return save_powder(PowderNet(**SMALL), TOY, tmp_path_factory.mktemp('powder'), know=dict(wanted=.9, threshold=.5))


@pytest.fixture(scope='session')
def scan(tmp_path_factory):
    "Corundum as a laboratory might record it; the file states its wavelength."
    path = tmp_path_factory.mktemp('scan')/'corundum.xy'
    pattern(CORUNDUM).save(path)
    return path


# the answer

def test_json(toy, scan):
    code, (found,), err = run_json('identify', scan, '--model', toy, '--top', 3)
    assert ((code, err, list(found)) == (0, '', [*KEYS, 'undecided', 'wavelength', 'two_theta'])
            and (found['input'], found['model'], found['kind']) == (str(scan), 'toy-powder', 'powder'))
    for c in found['candidates']:
        assert list(c) == ['space_group', 'symbol', 'crystal_system', 'probability', 'std', 'inseparable',
                           'extinction_class']
        assert sorted([c['space_group'], *c['inseparable']]) == c['extinction_class'] == [int(n)
            for n in extinction_class(c['space_group']).split(', ')]
    assert len(found['crystal_systems']) == 7 and sum(found['crystal_systems'].values()) == pytest.approx(1, abs=1e-4)
    # the toy was taught nothing
    assert found['undecided'] is True and any(w.startswith('I do not know') for w in found['warnings'])
    code, out, _ = run('identify', scan, '--model', toy)
    assert code == 0 and 'I do not know' in out and 'the same lines as' in out


def test_one_record_for_all(toy, scan):
    "In Python: file, pattern and crystal give the one record."
    found = identify(scan, toy)
    assert (isinstance(found, Identification) and isinstance(found.pattern, PowderPattern)
            and found.patterns.shape == (3, 3072) and found.space_group is None and found.known)
    assert identify(read_powder(scan), toy).candidates == found.candidates
    crystal = identify(CORUNDUM, toy)
    assert ((crystal.kind, crystal.space_group, crystal.input) == ('structure', 167, str(CORUNDUM))
            and 'undecided' in crystal.to_dict() and 'undecided' not in identify(SALT).to_dict())


def test_dropout_is_seeded(toy, scan):
    def std(seed):
        return [c['std'] for c in run_json('identify', scan, '--model', toy, '--mc', 6, '--seed',
                                           seed)[1][0]['candidates']]
    assert std(1) == std(1) != std(2) and max(std(1)) > 0


def test_formats(toy, scan, tmp_path):
    "Whatever the file looks like, it is one pattern."
    p = read_powder(scan)
    counts = ' '.join(f'{v:.0f}' for v in p.intensity)
    texts = {'a.xy': lines(p), 'b.txt': '2theta\tI\n' + lines(p, mark='\t'),
             'c.csv': 'Winkel 2Theta;Zählrate\n' + lines(p, ',', ';'), 'd.dat': lines(p, ',', '\t'),
             'e.gsa': f'title\nBANK 1 {len(p.intensity)} {-(-len(p.intensity)//10)} CONST {100*p.two_theta[0]:.2f} 2.0 0 0\n'
             + '\n'.join(''.join(f'{1:2}{v:6.0f}' for v in p.intensity[i:i + 10])
                         for i in range(0, len(p.intensity), 10)),
             'f.xrdml': f'<xrdMeasurements><xrdMeasurement><usedWavelength intended="K-Alpha 1"><kAlpha1>1.540593</kAlpha1></usedWavelength><scan><dataPoints><positions axis="2Theta" unit="deg"><startPosition>{p.two_theta[0]}</startPosition>' f'<endPosition>{p.two_theta[-1]}</endPosition></positions><intensities unit="counts">{counts}</intensities></dataPoints></scan></xrdMeasurement></xrdMeasurements>',
             'g.cif': 'data_scan\nloop_\n_pd_meas_2theta_scan\n_pd_meas_counts_total\n' + lines(p)}
    for name, text in texts.items(): (tmp_path/name).write_text(text, encoding='utf-8')
    code, found, err = run_json('identify', *(tmp_path/n for n in texts), '--wavelength', 'Cu', '--model', toy)
    assert code == 0, err
    expected = probabilities(run_json('identify', scan, '--model', toy)[1][0])
    for item in found:
        assert item['kind'] == 'powder' and probabilities(item) == pytest.approx(expected, abs=2e-3), item['input']


@shipped
@pytest.mark.parametrize('file', [SALT, PEROVSKITE, EXAMPLES/'scheelite_CaWO4.cif', EXAMPLES/'spinel_MgAl2O4.cif'],
                         ids=lambda f: f.stem)
def test_two_wavelengths(file, tmp_path):
    "One crystal, recorded with copper and with molybdenum, with noise and doublets: one answer."
    groups = []
    for name, tool in (('Cu', CU), ('Mo', MO)):
        (tmp_path/f'{name}.xy').write_text(lines(pattern(file, tool)))
        code, (found,), err = run_json('identify', tmp_path/f'{name}.xy', '--wavelength', name)
        assert code == 0, err
        groups.append(found['candidates'][0]['space_group'])
    assert groups == [standard_cell(read_crystal(file)).space_group]*2


@shipped
def test_mixed_inputs(scan, tmp_path):
    "Structures, images and patterns in one call, each to its own model."
    assert run('simulate', SALT, '--out', tmp_path)[0] == 0
    images = [tmp_path/f'{SALT.stem}_{beam}_raw.png' for beam in 'xyz']
    code, found, err = run_json('identify', SALT, scan, *images, tmp_path/'absent.xy', PEROVSKITE, '--wavelength', 'Cu')
    assert (code == 1 and [f.get('kind') for f in found] == ['structure', 'powder', 'images', None, 'structure']
            and 'absent.xy' in err)
    assert [f.get('model') for f in found] == ['msdn-72', 'powder-230-measured', 'msdn-72', None, 'msdn-72']


# bad input

def bad_files(p):
    "Files that cannot be answered: name, content, words of the message."
    n = len(p.two_theta)
    return [('letter.xy', 'Dear Sir,\nthe sample is enclosed.\n', ['no columns of numbers', 'give a file']),
            ('empty.xy', '', ['empty', 'export']),
            ('few.xy', lines(PowderPattern(p.two_theta[:60], p.intensity[:60], 1.54)),
             ['60 points only', 'at least 200']),
            ('constant.xy', '\n'.join(f'{a:.2f} 7' for a in p.two_theta), ['7 at every angle', 'give the column']),
            ('nothing.xy', '\n'.join(f'{a:.2f} 0' for a in p.two_theta), ['zero', 'give the measured counts']),
            ('negative.xy', '\n'.join(f'{a:.2f} {b - 700:.0f}' for a, b in zip(p.two_theta, p.intensity)),
             ['negative', 'give the measured counts']),
            ('comma.csv', lines(p, ',', ','), ['decimal commas', 'semicolons']),
            ('flight.xy', '\n'.join(f'{1000 + 5*i} {b:.0f}' for i, b in enumerate(p.intensity)),
             ['no 2theta', 'convert']),
            ('radians.xy', '\n'.join(f'{a/57.2958:.5f} {b:.0f}' for a, b in zip(p.two_theta, p.intensity)),
             ['radians', 'multiply']),
            ('short.xy', lines(PowderPattern(p.two_theta[:220], p.intensity[:220], 1.54)), ['whole scan']),
            ('background.xy',
             '\n'.join(f'{a:.2f} {v}' for a, v in zip(p.two_theta, np.random.default_rng(0).poisson(300, n))),
             ['no line rises', 'measure longer']), ('scan.brml', b'PK\3\4' + bytes(60), ['cannot be read', 'export']),
            ('scan.raw', b'RAW1.01' + bytes(40), ['export']), ('noise.xy', bytes(range(256))*20, ['binary', 'export'])]


def test_bad_files(toy, scan, tmp_path):
    "Each is named with a remedy, among good ones that are answered."
    made = bad_files(read_powder(scan))
    for name, content, _ in made:
        (tmp_path/name).write_bytes(content if isinstance(content, bytes) else content.encode())
    paths = [scan, *(tmp_path/name for name, *_ in made), tmp_path/'absent.xrdml', scan]
    code, found, err = run_json('identify', *paths, '--wavelength', 1.540593, '--model', toy)
    assert (code == 1 and [f['input'] for f in found] == [str(p) for p in paths]
            and all('candidates' in f for f in (found[0], found[-1])))
    for path, item, words in zip(paths[1:-1], found[1:-1], [w for *_, w in made] + [['no such file', 'give']]):
        assert list(item) == ['input',
                              'error'] and item['error'] in err and str(path) in item['error'] and ';' in item['error'] and 'report' not in item['error'], item
        for word in words: assert word in item['error'], item
    assert len(err.strip().splitlines()) == len(paths) - 2


def test_wavelength_is_never_assumed(toy, scan, tmp_path):
    (tmp_path/'bare.xy').write_text(lines(read_powder(scan)))
    code, (found,), err = run_json('identify', tmp_path/'bare.xy', '--model', toy)
    assert (code == 1 and 'bare.xy' in err and 'does not say its wavelength' in found['error']
            and '--wavelength' in found['error'])
    for wrong, word in (('154.06', 'outside'), ('copper', 'not known'), ('Xx', 'not known'), ('-1', 'positive')):
        code, (found,), err = run_json('identify', tmp_path/'bare.xy', '--wavelength', wrong, '--model', toy)
        assert code == 1 and word in found['error'] and 'bare.xy' in found['error'] and 'angstrom' in found['error'], found
    a, b = (run_json('identify', tmp_path/'bare.xy', '--wavelength', w, '--model', toy)[1][0]
            for w in ('Cu', '1.540593'))
    assert probabilities(a) == probabilities(b)


def test_repaired_files_say_so(toy, scan, tmp_path):
    "Unsorted, repeated, a few negative counts, another wavelength than the file's: answered, with a warning for each."
    p = read_powder(scan)
    order = np.random.default_rng(0).permutation(len(p.two_theta))
    shuffled = PowderPattern.__new__(PowderPattern)
    for field, value in dict(two_theta=p.two_theta[order], intensity=p.intensity[order]).items():
        object.__setattr__(shuffled, field, value)
    negative = p.intensity.copy(); negative[5] = -4
    texts = {'shuffled.xy': (lines(shuffled), 'out of order'),
             'twice.xy': (lines(p) + '\n' + lines(PowderPattern(p.two_theta[:50], p.intensity[:50], 1.54)), 'repeated'),
             'negative.xy': (lines(replace(p, intensity=negative)), 'negative')}
    for name, (text, _) in texts.items(): (tmp_path/name).write_text(text)
    code, found, err = run_json('identify', *(tmp_path/n for n in texts), '--wavelength', 'Cu', '--model', toy)
    assert code == 0, err
    for item, (_, word) in zip(found, texts.values()): assert any(word in w for w in item['warnings']), item['warnings']
    expected = run_json('identify', scan, '--model', toy)[1][0]
    assert (probabilities(found[0]) == pytest.approx(probabilities(expected), abs=2e-3)
            and not any('order' in w or 'wavelength' in w for w in expected['warnings']))
    other = run_json('identify', scan, '--wavelength', 'Co', '--model', toy)[1][0]
    assert any('the file says 1.54059 angstrom, but 1.789 angstrom has been given' in w for w in other['warnings'])


@shipped
@pytest.mark.parametrize('change, word',
                         [(dict(two_theta=(30, 90)), 'never learned'), (dict(two_theta=(10, 45)), 'never learned'),
                          (dict(w=4., u=0.), 'wide')])
def test_outside_of_the_training(change, word, tmp_path):
    "A pattern such as the model never saw is answered, with \"I do not know\" and the reason."
    pattern(CORUNDUM, replace(CU, **change)).save(tmp_path/'odd.xy')
    code, (found,), err = run_json('identify', tmp_path/'odd.xy')
    assert code == 0 and found['undecided'] and len(found['candidates']) == 5 and any(word in w
        for w in found['warnings']), found['warnings']


@shipped
@pytest.mark.parametrize('first, second', [('corundum_Al2O3', 'anatase_TiO2'), ('rutile_TiO2', 'quartz_SiO2'),
                                           ('forsterite_Mg2SiO4', 'calcite_CaCO3'), ('zircon_ZrSiO4', 'hematite_Fe2O3'),
                                           ('spinel_MgAl2O4', 'perovskite_CaTiO3')])
def test_two_phases(first, second, tmp_path):
    "Halves of two phases are no crystal: the model must not be sure of a group that is neither's."
    a, b = (pattern(EXAMPLES/f'{n}.cif') for n in (first, second))
    mixed = replace(a, intensity=a.intensity + b.intensity, name='mixture'); mixed.save(tmp_path/'mixture.xy')
    found = run_json('identify', tmp_path/'mixture.xy')[1][0]
    groups = [standard_cell(read_crystal(EXAMPLES/f'{n}.cif')).space_group for n in (first, second)]
    assert found['undecided'] or found['candidates'][0]['space_group'] in groups, found['candidates'][0]

    assert any('second phase' in w for w in found['warnings']), found['warnings']
    for one in (a, b):
        replace(one, name='pure').save(tmp_path/'pure.xy')
        assert not any('second phase' in w for w in run_json('identify', tmp_path/'pure.xy')[1][0]['warnings'])


@shipped
def test_neutrons(tmp_path):
    "A file that speaks of neutrons is answered, and not trusted."
    scan = powder_pattern(standard_cell(read_crystal(EXAMPLES/'spinel_MgAl2O4.cif')), Instrument(radiation='neutron', w=.02))
    scan.save(tmp_path/'neutron.xy'); found = run_json('identify', tmp_path/'neutron.xy')[1][0]
    assert found['undecided'] and any('neutrons' in w for w in found['warnings']), found['warnings']


@bounded
@given(content=st.binary(max_size=300), cut=st.integers(0, 9000),
       name=st.sampled_from(['a.xy', 'a.csv', 'a.xrdml', 'a.raw', 'a.brml', 'a.ras', 'a.gsa', 'a.fxye', 'a.txt']),
       whole=st.booleans())
def test_fuzzed_files(toy, scan, tmp_path, content, cut, name, whole):
    (tmp_path/name).write_bytes(scan.read_bytes()[:cut] + content if whole else content)
    try: identify(tmp_path/name, toy, wavelength='Cu')
    except PowderError as e: assert name in str(e) and ';' in str(e)


# cell and figure

def test_cell(toy, scan, tmp_path):
    code, (found,), err = run_json('identify', scan, '--cell', CELL, '--model', toy, '--plot', tmp_path/'cell.png')
    assert (code == 0 and err == '' and min(Image.open(tmp_path/'cell.png').size) > 500
            and not any('fit no reflection' in w for w in found['warnings']))
    wrong = run_json('identify', scan, '--cell', '5.1 5.1 9 90 90 120', '--model', toy)[1][0]
    assert wrong['undecided'] and any('fit no reflection of the cell' in w for w in wrong['warnings'])
    # where the card knows what answers to minerals were worth, a doubt says so
    worth = replace(load_powder(toy), card=dict(load_powder(toy).card, know_measured=dict(threshold=.45, right=.81)))
    with warnings.catch_warnings(): warnings.simplefilter('ignore'); found = identify(pattern(CORUNDUM), worth)
    assert any('measured minerals from 45 %' in w and '81 of 100 were right' in w for w in found.warnings), found.warnings
    # a cell that leaves much of the pattern unexplained is a reason for doubt, however confident the model
    trained = load_powder(toy); sure = replace(trained, card=dict(trained.card, know=dict(wanted=.9, threshold=0.)))
    alien = powder_pattern(Crystal(3.9*np.eye(3), [29], [[0, 0, 0]]), CU); own = pattern(CORUNDUM)
    for share, doubted in ((0., False), (1., True)):
        mixed = replace(own, intensity=own.intensity + share*np.interp(own.two_theta, alien.two_theta, alien.intensity))
        with warnings.catch_warnings(): warnings.simplefilter('ignore'); found = identify(mixed, sure, cell=[float(v) for v in CELL.split()])
        against = [w for w in found.warnings if 'fit no reflection of the cell' in w]
        assert any(w.startswith('I do not know') for w in against) == doubted, found.warnings
    # other axes of the same lattice are set right, and it is told
    for cell in ('12.9911 4.7589 4.7589 120 90 90', '5.128 5.128 5.128 55.28 55.28 55.28'):
        code, (found,), err = run_json('identify', scan, '--cell', cell, '--model', toy)
        told = [w.split('in its place stands ')[1] for w in found['warnings'] if 'in its place stands' in w]
        assert code == 0 and len(told) == 1, found
        assert [float(v) for v in told[0].split()] == pytest.approx([4.7589, 4.7589, 12.9911, 90, 90, 120], rel=1e-3)
    code, (found,), err = run_json('identify', scan, '--cell', '0 0 0 90 90 90', '--model', toy)
    assert code == 1 and 'cell' in found['error'] and scan.name in found['error'], found
    for cell in ('4 4 4', 'a b c 90 90 90', ''): assert run('identify', scan, '--cell', cell, '--model', toy)[0] == 2


@shipped
def test_figures_of_all_kinds(scan, tmp_path):
    assert run('identify', SALT, scan, '--plot', tmp_path/'both.pdf', '--mc', 3)[0] == 0
    pages = (tmp_path/'both.pdf').read_bytes()
    assert max(pages.count(b'/Type /Page\n'), pages.count(b'/Type /Page ')) == 2
    nothing_half_written(tmp_path)


def test_each_model_reads_its_own(toy, scan, tmp_path):
    assert run('simulate', SALT, '--out', tmp_path)[0] == 0
    images = [tmp_path/f'{SALT.stem}_{beam}_raw.png' for beam in 'xyz']
    code, found, err = run_json('identify', *images, SALT, scan, '--model', toy)
    assert (code == 1 and 'not images' in found[0]['error'] and found[1]['kind'] == 'structure'
            and found[1]['model'] == 'toy-powder' and found[2]['kind'] == 'powder')
    code, (found,), err = run_json('identify', scan, '--model', 'msdn-72')
    assert code == 1 and 'zone-axis' in found['error'] and str(scan) in found['error']


# simulate

def test_simulate(tmp_path):
    (tmp_path/'bad.cif').write_text('no')
    code, (salt, bad, again), err = run_json('simulate', SALT, tmp_path/'bad.cif', SALT, '--powder', '--out',
                                             tmp_path/'o', '--wavelength', 'Mo', '--counts', 1000, '--seed', 3)
    assert code == 1 and list(bad) == ['input', 'error'] and 'bad.cif' in err
    assert [Path(f).name for f in salt['files'] + again['files']] == [f'{SALT.stem}.xy', f'{SALT.stem}.png',
                                                                      f'{SALT.stem}-2.xy', f'{SALT.stem}-2.png']
    one, two = (read_powder(o['files'][0]) for o in (salt, again))
    assert (one.wavelength == .709317 and (one.intensity == two.intensity).all()
            and (one.intensity == one.intensity.round()).all())
    # 200 of rock salt
    assert one.d_spacing[one.intensity.argmax()] == pytest.approx(5.6402/2, rel=.01)
    nothing_half_written(tmp_path)


def test_simulate_options(tmp_path):
    def made(*options):
        code, (item,), err = run_json('simulate', CORUNDUM, '--powder', '--out', tmp_path/'o', *options)
        assert code == 0, err
        return read_powder(item['files'][0])
    plain, neutron = made(), made('--radiation', 'neutron')
    assert (np.corrcoef(plain.intensity, neutron.intensity)[0, 1] < .95 and plain.two_theta[[0, -1]]
            == pytest.approx([5, 90]))
    assert ((made('--fwhm', .4).intensity > 50).sum() > 2*(plain.intensity > 50).sum()
            and made('--background', 10).intensity.min() > 4)
    assert (abs(made('--march', .6).intensity - plain.intensity).max() > 5
            and len(made('--two-theta', 20, 40).two_theta) == 1001)
    assert (made('--alpha2').intensity - plain.intensity).max() > 5
    for options in (['--alpha2', '--wavelength', '1.2'], ['--wavelength', '99'], ['--two-theta', 40, 20]):
        code, out, err = run('simulate', CORUNDUM, '--powder', '--out', tmp_path/'o', *options)
        assert code == 2 and out == '' and 'give' in err, err
    code, (found,), err = run_json('simulate', CORUNDUM, '--powder', '--out', tmp_path/'o', '--wavelength', '5',
                                   '--two-theta', 5, 10)
    assert code == 1 and 'error' in found and 'widen' in err, err
    # a wavelength as people write it has its second line, too
    for wavelength in ('1.5406', '0.70932', 'Cu'):
        assert run('simulate', CORUNDUM, '--powder', '--alpha2', '--wavelength', wavelength, '--out', tmp_path/wavelength)[0] == 0
    for args in (['--powder', '--axis', 'x'], ['--powder', '--pixels', 64], ['--fwhm', .1], ['--radiation', 'neutron'],
                 ['--counts', 100], ['--wavelength', 'Cu'], ['--powder', '--march', 0]):
        assert run('simulate', CORUNDUM, '--out', tmp_path/'o', *args)[0] == 2, args


# train and evaluate

@pytest.fixture(scope='module')
def table(tmp_path_factory):
    "Crystals of the CsCl type and of its tetragonal relative."
    rng = np.random.default_rng(0)
    rows = [crystal_row(Crystal(np.diag([1, 1, 1 if k else 1.2])*rng.uniform(3, 5), [55, 17], [[0, 0, 0], [.5]*3]),
                        f'{i}-{k}') for i in range(40) for k in (0, 1)]
    path = tmp_path_factory.mktemp('table')/'cscl.parquet'
    write_crystals(path, rows)
    return path


def test_train_and_evaluate_powder(table, tmp_path, monkeypatch):
    "One epoch of a small recipe: weights, card and scores; then the same model scores the rows it never saw, and answers."
    monkeypatch.setitem(POWDER_MODELS, 'toy-powder', TOY)
    code, found, err = run_json('train', 'toy-powder', '--data', table, '--out', tmp_path, '--epochs', 1, '--workers',
                                1, '--seed', 3)
    assert code == 0, err
    card = json.loads(Path(found['card']).read_text())
    assert (card['kind'] == 'powder' and card['data']['file'] == table.name and card['data']['seed'] == 3
            and card['data']['test'] == 8 and 0 <= card['know']['threshold'] <= 1 and card['temperature'] > 0)
    code, scores, _ = run_json('evaluate', found['output'], table, '--unseen', '--workers', 1)
    assert code == 0 and scores['n'] == 8 and scores['top1'] == found['scores']['top1']
    assert list(scores) == ['model', 'n', 'skipped', 'top1', 'top2', 'top3', 'top4', 'top5', 'diffraction_class_top1',
                            'crystal_system_top1', 'macro_f1', 'ece', 'structures_per_second']
    code, out, _ = run('evaluate', found['output'], table, '--sample', 10, '--workers', 1)
    assert code == 0 and 'top-5' in out and '10 patterns' in out
    nothing_half_written(tmp_path)


def test_evaluate_refuses(toy, table, tmp_path):
    code, found, err = run_json('evaluate', toy, table, '--unseen')
    assert code == 1 and 'not the table that toy-powder learned from' in found['error'] and table.name in err
    cut = tmp_path/'cut.safetensors'
    cut.write_bytes(toy.read_bytes()[:-100]); cut.with_suffix('.json').write_text(toy.with_suffix('.json').read_text())
    for args in (['evaluate', cut, table], ['identify', SALT, '--model', cut]):
        code, found, err = run_json(*args)
        assert code == 1 and 'cut' in found['error'] and 'damaged' in found['error']


def test_train_names(table, tmp_path):
    code, found, err = run_json('train', 'ulbd-triclinic', '--out', tmp_path)
    assert (code == 1 and all(n in found['error'] for n in ('no such recipe', 'msdn-72', 'powder-230', 'ulbd-cubic',
                                                            'ulbd-monoclinic')))
    code, found, err = run_json('train', 'powder-230', '--out', tmp_path/'o')
    assert code == 1 and '--data' in found['error'] and not (tmp_path/'o').exists()


@pytest.mark.parametrize('data', [False, True], ids=['laws', 'structures'])
def test_train_and_evaluate_laws(data, table, tmp_path, monkeypatch):
    "The networks of paper B: from laws, or from the structures of a table; scored on any table; not for files."
    from functools import partial
    from msdn_nb import powder_network as net
    small = replace(net.LAW_RECIPES['ulbd-cubic'], name='ulbd-toy', architecture='PowderCNN', labels='group',
                    samples=16, epochs=1, batch_size=8)
    monkeypatch.setitem(net.LAW_RECIPES, 'ulbd-toy', small)
    monkeypatch.setattr(net, 'finish_law', partial(net.finish_law, n=40))
    code, found, err = run_json('train', 'ulbd-toy', '--out', tmp_path, *(['--data', table] if data else []),
                                '--workers', 1)
    assert code == 0, err
    assert (Path(found['output']).name == ('cddd-toy' if data else 'ulbd-toy') + '.safetensors'
            and 0 <= found['scores']['top1'] <= found['scores']['top5'] <= 1)
    code, scores, err = run_json('evaluate', found['output'], table, '--sample', 30, '--workers', 1)
    assert code == 0 and scores['n'] + scores['skipped'] == 30 and scores['skipped'] > 0, err
    code, refused, err = run_json('identify', SALT, '--model', found['output'])
    assert code == 1 and 'msdn evaluate' in refused['error']
