"Whatever is put into a structure file, `read_crystal` gives a `Crystal` or a `CrystalError` that names the file."
import json, warnings
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from msdn_nb.crystal import Crystal, CrystalError, read_crystal, standard_cell

CIF = """data_zincite
_chemical_formula_sum 'O Zn'
_cell_length_a 3.2500(2)
_cell_length_b 3.2500(2)
_cell_length_c 5.2070(3)
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 120
_symmetry_Int_Tables_number 186
_symmetry_space_group_name_H-M 'P 63 m c'
loop_
_symmetry_equiv_pos_as_xyz
x,y,z
-y,x-y,z
-x+y,-x,z
-x,-y,z+1/2
y,-x+y,z+1/2
x-y,x,z+1/2
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Zn1 Zn2+ 0.3333 0.6667 0.0000 1.0
O1 O2- 0.3333 0.6667 0.3820 1.0
"""
POSCAR = "zincite\n1.0\n3.25 0 0\n-1.625 2.81458 0\n0 0 5.207\nZn O\n2 2\nDirect\n0.3333 0.6667 0\n0.6667 0.3333 0.5\n0.3333 0.6667 0.382\n0.6667 0.3333 0.882\n"
STRUCTURE = json.dumps({'@module': 'pymatgen.core.structure', '@class': 'Structure', 'charge': 0,
                        'lattice': {'matrix': [[4, 0, 0], [0, 4, 0], [0, 0, 4]]},
                        'sites': [{'species': [{'element': 'Cs', 'occu': 1}], 'abc': [0, 0, 0]},
                                  {'species': [{'element': 'Cl', 'occu': 1}], 'abc': [.5, .5, .5]}]})
GOOD = {'zincite.cif': (CIF, 186), 'zincite.vasp': (POSCAR, 186), 'salt.json': (STRUCTURE, 221)}
bounded = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PIECES = ['loop_', '?', '.', '0', '-1', 'nan', '1e300', '1e-300', '1/0', '9/7', 'data_', '_cell_length_a', '"', "'",
          ';\n', '#', '\n', 'x,y', 'Xx', '\ufeff', '\u00e9', '{', '}', '[', ',', 'null', 'Infinity']

def crystal_or_error(path):
    "Read `path`; the outcome must be a crystal or an error that names the file"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: found = read_crystal(path)
        except CrystalError as e:
            assert path.name in str(e) and ';' in str(e)
            return None
    assert isinstance(found, Crystal)
    return found

@st.composite
def mutated(draw, text):
    "A good file with a few cuts, insertions and doublings"
    for _ in range(draw(st.integers(1, 4))):
        i = draw(st.integers(0, len(text))); j = draw(st.integers(i, min(len(text), i + 40)))
        middle = draw(st.one_of(st.sampled_from(PIECES), st.just(''), st.just(text[i:j]*2), st.text(max_size=5)))
        text = text[:i] + middle + text[j:]
    return text

@pytest.mark.parametrize('name', GOOD)
def test_good(tmp_path, name):
    (tmp_path/name).write_text(GOOD[name][0])
    found = read_crystal(tmp_path/name)
    assert standard_cell(found).space_group == GOOD[name][1] and found.name == name.split('.')[0]

@bounded
@given(content=st.one_of(st.text(max_size=300).map(lambda t: t.encode('utf-8', 'replace')), st.binary(max_size=300)),
       name=st.sampled_from(['a.cif', 'a.mcif', 'a.vasp', 'POSCAR', 'a.json', 'a.xyz', 'a.txt', 'a']))
def test_garbage(tmp_path, content, name):
    (tmp_path/name).write_bytes(content)
    crystal_or_error(tmp_path/name)

@pytest.mark.parametrize('name', GOOD)
@bounded
@given(data=st.data())
def test_mutated(tmp_path, name, data):
    (tmp_path/name).write_bytes(data.draw(mutated(GOOD[name][0])).encode('utf-8', 'replace'))
    crystal_or_error(tmp_path/name)

@pytest.mark.parametrize('name', GOOD)
def test_truncated(tmp_path, name):
    text = GOOD[name][0]
    for cut in range(0, len(text), 7):
        (tmp_path/name).write_text(text[:cut])
        crystal_or_error(tmp_path/name)

@pytest.mark.parametrize('old, new, says', [('3.2500(2)', '0', 'no volume'), ('3.2500(2)', 'nan', 'cell_length'),
                                            ('gamma 120', 'gamma 180', 'no volume'),
                                            ('_atom_site_', '_other_', 'no atoms'),
    ('Zn1 Zn2+ 0.3333 0.6667', 'Zn1 Zn2+ ? ?', None), ('3.2500(2)', '1e9', 'angstrom'),
    ('x-y,x,z+1/2', 'x-y,x,z+', 'not a structure file'),
    ('O1 O2- 0.3333 0.6667 0.3820', 'O1 O2- 0.3333 0.6667 0.0001', 'share the position'),
    ('Zn1 Zn2+', 'Q1 Q', 'no element')])
def test_wrong_values(tmp_path, old, new, says):
    (tmp_path/'a.cif').write_text(CIF.replace(old, new))
    if says is None:
        assert len(crystal_or_error(tmp_path/'a.cif').numbers) == 2
        return
    with pytest.raises(CrystalError, match=says) as e: read_crystal(tmp_path/'a.cif')
    assert 'a.cif' in str(e.value)

@pytest.mark.parametrize('make, says', [(lambda p: p.mkdir(), 'folder'), (lambda p: p.write_text(' \n'), 'empty'),
                                        (lambda p: None, 'no such file'),
                                        (lambda p: p.write_bytes(bytes(range(256))*8), 'binary')])
def test_not_a_file(tmp_path, make, says):
    make(tmp_path/'b.cif')
    with pytest.raises(CrystalError, match=says): read_crystal(tmp_path/'b.cif')

@pytest.mark.parametrize('source', [None, 7, [], b'x', 'a\0b', 'x'*5000])
def test_not_a_path(source):
    with pytest.raises(CrystalError): read_crystal(source)
