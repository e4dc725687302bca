"The crystals in `examples/`: symmetry, chemistry, distances, references and index."
import csv, re, warnings
from collections import Counter
from pathlib import Path

import gemmi, numpy as np, pytest, spglib
from ase.data import covalent_radii
from pymatgen.core import Structure
from msdn_nb import crystal, symmetry

FOLDER = Path(__file__).resolve().parents[1]/'examples'
INDEX = list(csv.DictReader((FOLDER/'index.csv').open(encoding='utf-8', newline='')))
FILES = sorted(f.name for f in FOLDER.glob('*.cif'))
SYSTEMS = 'triclinic monoclinic orthorhombic tetragonal trigonal hexagonal cubic'.split()
LAST = dict(zip(SYSTEMS, (2, 15, 74, 142, 167, 194, 230)))     # last group number of each system

def system_of(number): return next(s for s in SYSTEMS if number <= LAST[s])

def block_of(name): return gemmi.cif.read(str(FOLDER/name)).sole_block()

def text_of(block, tag): return gemmi.cif.as_string(block.find_value(tag) or '')

def cell_of(name):
    "Lattice rows (angstrom), fractional coordinates and atomic numbers of the whole cell, read with gemmi."
    small = gemmi.read_small_structure(str(FOLDER/name))
    atoms = small.get_all_unit_cell_sites()
    lattice = np.array(small.cell.orth.mat.tolist()).T
    return small, (lattice, np.array([a.fract.tolist() for a in atoms]), [a.element.atomic_number for a in atoms])

def counts(formula): return Counter({e: int(n or 1) for e, n in re.findall(r'([A-Z][a-z]?)(\d*)', formula)})

@pytest.fixture(params=INDEX, ids=[r['file'] for r in INDEX])
def row(request): return request.param

def test_folder_and_index_agree():
    assert sorted(r['file'] for r in INDEX) == FILES
    assert len(FILES) >= 45
    assert len({r['name'] for r in INDEX}) == len(INDEX)
    assert all(all(r.values()) for r in INDEX)

def test_all_seven_systems():
    found = Counter(r['crystal_system'] for r in INDEX)
    assert set(found) == set(SYSTEMS)
    assert min(found.values()) >= 3

def test_readme_counts():
    text = (FOLDER/'README.md').read_text(encoding='utf-8')
    found = Counter(r['crystal_system'] for r in INDEX)
    assert {s: int(n) for s, n in re.findall(r'^\| (\w+) \| (\d+) \|', text, re.M)} == found
    groups = {int(r['space_group']) for r in INDEX}
    known, others = groups & set(symmetry.GROUPS_72), sorted(groups - set(symmetry.GROUPS_72))
    first = ' '.join(text.split('\n|')[0].split())
    assert f'{len(INDEX)} well-known crystals in {len(groups)} space groups' in first
    assert f'cover {len(known)} of the 72 groups' in first
    assert f"({', '.join(map(str, others))}) belong to {sum(int(r['space_group']) in others for r in INDEX)} crystals" in first

def test_symmetry(row):
    _, cell = cell_of(row['file'])
    for symprec, angle in (0.1, 5), (0.01, -1):
        found = spglib.get_symmetry_dataset(cell, symprec=symprec, angle_tolerance=angle)
        assert found.number == int(row['space_group']), f'{symprec=}: {found.number}'

def test_stated_group(row):
    "Number, symbol, Hall symbol and the listed operations all name the same setting of the same group."
    block = block_of(row['file'])
    group = gemmi.find_spacegroup_by_name(text_of(block, '_space_group_name_H-M_alt'))
    listed = gemmi.GroupOps([gemmi.Op(gemmi.cif.as_string(x))
                             for x in block.find_values('_space_group_symop_operation_xyz')])
    assert group.number == int(text_of(block, '_space_group_IT_number')) == int(row['space_group'])
    assert group.hall == text_of(block, '_space_group_name_Hall')
    assert set(listed) == set(group.operations())
    assert text_of(block, '_space_group_crystal_system') == row['crystal_system'] == system_of(group.number)

def test_formula_and_density(row):
    block, (small, (lattice, frac, numbers)) = block_of(row['file']), cell_of(row['file'])
    stated = counts(row['formula'])
    units = int(text_of(block, '_cell_formula_units_Z'))
    assert counts(text_of(block, '_chemical_formula_sum').replace(' ', '')) == stated
    assert Counter(gemmi.Element(int(z)).name for z in numbers) == Counter({e: n*units for e, n in stated.items()})
    assert row['file'].removesuffix('.cif').split('_')[1] == row['formula']
    volume = abs(np.linalg.det(lattice))
    density = sum(gemmi.Element(int(z)).weight for z in numbers)*1.66053907/volume
    assert volume == pytest.approx(float(text_of(block, '_cell_volume')), abs=2e-3)
    assert density == pytest.approx(float(text_of(block, '_exptl_crystal_density_diffrn')), abs=2e-3 + 2e-4*density)
    assert 1.5 < density < 20 and 5 < volume/len(numbers) < 60
    multiplicity = [int(n) for n in block.find_values('_atom_site_symmetry_multiplicity')]
    assert sum(multiplicity) == len(numbers)
    assert all(s.occ == 1 for s in small.sites)

def test_distances(row):
    "Every atom's nearest neighbour stands at a chemically sensible distance."
    _, (lattice, frac, numbers) = cell_of(row['file'])
    steps = np.stack(np.meshgrid(*[np.arange(-2, 3)]*3, indexing='ij'), -1).reshape(-1, 3)
    delta = (frac[None] - frac[:, None])
    delta = (delta - np.round(delta))[:, :, None] + steps
    distance = np.linalg.norm(delta @ lattice, axis=-1)
    distance[distance < 1e-6] = np.inf
    distance = distance.min(-1)
    radius = covalent_radii[numbers]
    ratio = (distance/(radius[:, None] + radius[None])).min(1)
    assert ratio.min() > 0.7 and ratio.max() < 1.35, (ratio.min(), ratio.max())

def test_reference(row):
    block = block_of(row['file'])
    authors = [gemmi.cif.as_string(a) for a in block.find_values('_publ_author_name')]
    year, page, doi = (text_of(block, f'_journal_{k}') for k in ('year', 'page_first', 'paper_doi'))
    assert authors and len(text_of(block, '_publ_section_title').strip()) > 10 and text_of(block, '_journal_name_full')
    assert 1900 < int(year) < 2026 and f'({year})' in row['reference']
    assert authors[0].split(',')[0] in row['reference'] and page in row['reference']
    assert (doi in row['reference']) if doi else 'doi' not in row['reference']
    assert not doi or re.fullmatch(r'10\.\d{4}/\S+', doi)

def test_pymatgen_reads_the_same(row):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        structure = Structure.from_file(FOLDER/row['file'])
    _, (lattice, frac, numbers) = cell_of(row['file'])
    assert sorted(structure.atomic_numbers) == sorted(numbers)
    assert structure.volume == pytest.approx(abs(np.linalg.det(lattice)), rel=1e-6)
    found = spglib.get_symmetry_dataset((structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers),
                                        0.1, 5)
    assert found.number == int(row['space_group'])

def test_own_reader(row):
    read = crystal.read_crystal(FOLDER/row['file'])
    assert crystal.find_space_group(read, symprec=0.1) == int(row['space_group'])
    assert crystal.find_space_group(read, symprec=0.01) == int(row['space_group'])
    cell = crystal.standard_cell(read)
    assert cell.space_group == int(row['space_group'])
    assert cell.volume/cell.n_sites == pytest.approx(read.volume/read.n_sites, rel=1e-4)
