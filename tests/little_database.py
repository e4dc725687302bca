"A table to try experiments with where the Materials Project is not at hand: atoms on general positions of each group"
from pathlib import Path

import gemmi
import numpy as np

from msdn_nb.crystal import Crystal, CrystalError, lattice_from_parameters
from msdn_nb.sources import crystal_row, write_crystals
from msdn_nb.symmetry import class_set, crystal_system


def random_cell(system, rng):
    "Edges (angstrom) and angles (degrees) in the axes of the International Tables"
    a, b, c = rng.uniform(4, 9, 3); beta, alpha, gamma = rng.uniform(95, 120), *rng.uniform(75, 86, 2)
    return dict(triclinic=(a, b, c, alpha, beta, gamma), monoclinic=(a, b, c, 90, beta, 90), orthorhombic=(a, b, c, 90, 90, 90),
                tetragonal=(a, a, c, 90, 90, 90), trigonal=(a, a, c, 90, 90, 120), hexagonal=(a, a, c, 90, 90, 120),
                cubic=(a, a, a, 90, 90, 90))[system]


def random_crystal(group, rng):
    "Two elements on random points of a group; special positions where general ones would be crowded"
    operations = gemmi.find_spacegroup_by_number(group).operations(); atoms, numbers = [], []
    for z in rng.choice(np.r_[11:18, 19:36, 37:54], 2, replace=False):
        x = rng.random(3) if len(operations) <= 16 else rng.choice([0., .25, .5, .125, float(rng.random())], 3)
        orbit = np.unique(np.round([np.mod(op.apply_to_xyz(x.tolist()), 1) for op in operations], 6) % 1, axis=0)
        atoms.append(orbit); numbers += [int(z)]*len(orbit)
    return Crystal(lattice_from_parameters(*random_cell(crystal_system(group), rng)), numbers, np.concatenate(atoms))


def wanted(groups=class_set(116)):
    "How many crystals of each group: enough of eight groups to count as the paper's, some of the others"
    return {g: 300 if g in class_set(8) else 12 if g in class_set(72) else 8 for g in groups}


def write_little_database(path):
    "Crystals under the names and in the schema of the real table; the same on every machine"
    rows, rng = [], np.random.default_rng(0)
    for group, n in wanted().items():
        made = 0
        for _ in range(40*n):
            if made == n: break
            try: row = crystal_row(random_crystal(group, rng), f'mp-{len(rows) + 1}')
            except CrystalError: continue
            if row['space_group'] == group and len(row['numbers']) <= 100: rows.append(row); made += 1
    write_crystals(Path(path), rows)
    return Path(path)
