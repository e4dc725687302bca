"Lattices found in patterns, and the classes that are read from them: all systems, centred groups, any order of axes, bad input."
import json
from itertools import permutations
from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from msdn_nb.cli import app
from msdn_nb.crystal import read_crystal
from msdn_nb.extinction import extinction_classes
from msdn_nb.indexing import READERS, Indexer, LawReader, load_reader
from msdn_nb.lattices import GRIDS, PAPER_AXIS, LatticeError, cddd, law_patterns
from msdn_nb.powder_network import LawRecipe, law_answers, load_law
from msdn_nb.identify import load_model
from msdn_nb.training import WeightsError, shipped_weights

EXAMPLES = Path(__file__).resolve().parent.parent/'examples'
NAMES = dict(cubic='cubic', tetragonal='tetragonal', trihex='trigonal+hexagonal', orthorhombic='orthorhombic',
             monoclinic='monoclinic')


@pytest.fixture(scope='module')
def readers(): return {n: load_reader(f'reader-{n}') for n in NAMES}


def reduced(cell):
    g = gemmi.GruberVector(gemmi.UnitCell(*cell), 'P', False)
    g.niggli_reduce(1e-3)
    return np.array(g.cell_parameters())


def read(trained, pattern):
    "Members of the class that comes first, and its probability"
    p = np.exp(law_answers(trained, pattern[None])[0])
    shares = [sum(p[trained.recipe.groups.index(g)] for g in c) for c in trained.recipe.classes]
    return trained.recipe.classes[int(np.argmax(shares))], max(shares)


CASES = [('cubic', 227, (8.08, 8.08, 8.08, 90, 90, 90)), ('cubic', 198, (4.49, 4.49, 4.49, 90, 90, 90)),
         ('cubic', 230, (11.7, 11.7, 11.7, 90, 90, 90)), ('tetragonal', 136, (4.6, 4.6, 2.96, 90, 90, 90)),
         ('tetragonal', 141, (3.78, 3.78, 9.51, 90, 90, 90)), ('tetragonal', 142, (7.13, 7.13, 13.4, 90, 90, 90)),
         ('tetragonal', 92, (4.97, 4.97, 24.9, 90, 90, 90)), ('trihex', 167, (4.76, 4.76, 12.99, 90, 90, 120)),
         ('trihex', 166, (3.9, 3.9, 31.3, 90, 90, 120)), ('trihex', 194, (3.2, 3.2, 5.2, 90, 90, 120)),
         ('trihex', 161, (5.6, 5.6, 13.9, 90, 90, 120)), ('orthorhombic', 62, (4.76, 8.9, 5.98, 90, 90, 90)),
         ('orthorhombic', 70, (9.4, 6.1, 7.7, 90, 90, 90)), ('orthorhombic', 43, (5.3, 9.7, 6.2, 90, 90, 90)),
         ('orthorhombic', 29, (5.1, 7.3, 8.8, 90, 90, 90)), ('monoclinic', 14, (5.1, 6.2, 8.4, 90, 99.3, 90)),
         ('monoclinic', 15, (9.1, 6.6, 5.2, 90, 106.1, 90))]


@pytest.mark.parametrize('name, group, cell', CASES, ids=[f'{g}' for _, g, _ in CASES])
def test_lattice_and_class_of_law_made_patterns(readers, name, group, cell):
    pattern = law_patterns([group], [cell], seed=group)[0]
    cells = readers[name].model.indexer.cells(pattern)
    assert any(abs(reduced(c.cell) - reduced(cell)).max() < .02 for c in cells)
    members, share = read(readers[name], pattern)
    assert group in members and share > .5


def test_an_orthorhombic_class_is_read_from_any_order_of_axes(readers):
    edges, found = (4.7, 6.1, 8.3), []
    for order in permutations(range(3)):
        found.append(read(readers['orthorhombic'],
                          law_patterns([33], [(*(edges[i] for i in order), 90, 90, 90)], seed=4)[0])[0])
    assert len(set(found)) == 1 and 33 in found[0]


def test_heights_do_not_depend_on_the_scale(readers):
    reader, pattern = readers['cubic'], law_patterns([225], [(6.2, 6.2, 6.2, 90, 90, 90)], seed=1)[0]
    first = reader.model.indexer.evidence(pattern)
    for a, b in zip(first, reader.model.indexer.evidence(pattern*1234.5)): assert np.allclose(a, b, atol=1e-4)


def test_answers_are_probabilities_whatever_the_pattern(readers):
    rng, x = np.random.default_rng(0), PAPER_AXIS.two_theta
    strange = np.stack([np.ones(8192), rng.random(8192), np.exp(-.5*((x - 30)/.1)**2),
                        np.exp(-.5*((x - 30)/.1)**2) + np.exp(-.5*((x - 30.1)/.1)**2), np.where(x > 40, 1., 0.),
                        np.exp(-x/20)]).astype(np.float32)
    for n in ('cubic', 'tetragonal', 'orthorhombic'):
        p = np.exp(law_answers(readers[n], strange))
        assert np.allclose(p.sum(1), 1, atol=1e-4) and np.isfinite(p).all()


def test_patterns_that_are_none_are_refused(readers):
    indexer = readers['cubic'].model.indexer
    for bad in (np.ones(100), np.full(8192, np.nan), -np.ones(8192), np.zeros(8192)):
        with pytest.raises(LatticeError): indexer.cells(bad)
    with pytest.raises(LatticeError, match='triclinic'): Indexer(LawRecipe('none', GRIDS['triclinic']))


def test_weights_are_asked_for_by_their_kind():
    assert set(shipped_weights('reader')) == set(READERS)
    with pytest.raises(WeightsError, match='load_reader'): load_law('reader-cubic')
    with pytest.raises(WeightsError, match='one crystal system'): load_model('reader-cubic')
    with pytest.raises(WeightsError): load_reader('msdn-72')


def test_the_classes_of_a_reader_are_those_of_the_laws():
    for n, system in NAMES.items():
        r = LawReader(READERS[f'reader-{n}'])
        assert r.indexer.classes == extinction_classes(system, 'free', 'd')
        assert torch.isclose(r.prior.exp().sum(), torch.tensor(1.))


def test_real_crystals_of_the_examples(readers):
    for file, n, group in (('rutile_TiO2', 'tetragonal', 136), ('corundum_Al2O3', 'trihex', 167),
                           ('diamond_Si', 'cubic', 227), ('aragonite_CaCO3', 'orthorhombic', 62),
                           ('brookite_TiO2', 'orthorhombic', 61), ('sinoite_Si2N2O', 'orthorhombic', 36)):
        members, share = read(readers[n], cddd([read_crystal(EXAMPLES/f'{file}.cif')]).patterns[0])
        assert group in members and share > .5


def test_a_cell_beyond_the_bounds_gets_no_confident_answer(readers):
    # b is 10.2 angstrom
    assert read(readers['orthorhombic'], cddd([read_crystal(EXAMPLES/'forsterite_Mg2SiO4.cif')]).patterns[0])[1] < .2


def test_command_line(tmp_path):
    run = CliRunner().invoke(app, ['train', 'reader-cubic', '--out', str(tmp_path), '--epochs', '3', '--json'])
    assert run.exit_code == 1 and '--epochs' in json.loads(run.stdout)['error']
