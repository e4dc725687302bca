"Collecting crystals over a line that drops, from servers that stumble, by a process that is killed."
import json, signal, subprocess, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msdn_nb.crystal import Crystal
from msdn_nb.databases import DatabaseError, Patience, from_materials_project, from_optimade
from msdn_nb.sources import (SCHEMA, CrystalTable, Page, Source, TableError, collect, crystal_row, data_hash,
                             from_folder, from_prototypes, from_pyxtal, prototype_split, random_split, read_crystals,
                             shared_path, write_crystals)

KEY = 'k'*32
QUICK = Patience(tries=4, wait=.01, timeout=5)
# group, cell edges, atoms: five simple types that differ in edge and element
METALS = [('Li', 3), ('Na', 11), ('K', 19), ('Rb', 37), ('Cs', 55), ('V', 23), ('Cr', 24), ('Fe', 26), ('Nb', 41),
          ('Mo', 42), ('Ta', 73), ('W', 74)]


def crystals(n=45):
    "Cubic cells in turn: primitive (221), body-centred (229), face-centred (225), caesium chloride (221), perovskite (221)"
    corner, centre, faces = [0, 0, 0], [.5, .5, .5], [[0, .5, .5], [.5, 0, .5], [.5, .5, 0]]
    found = []
    for i in range(n):
        a, z = 4 + .05*i, METALS[i % len(METALS)][1]
        kinds = [([z], [corner]), ([z, z], [corner, centre]), ([z]*4, [corner, *faces]), ([z, 17], [corner, centre]),
                 ([z, 22, 8, 8, 8], [corner, centre, *faces])]
        numbers, coords = kinds[i % 5]
        found.append((f'mp-{1000 + i}', Crystal(a*np.eye(3), numbers, coords)))
    return found


GROUPS = [221, 229, 225, 221, 221]
SYMBOLS = dict((z, s) for s, z in METALS) | {17: 'Cl', 22: 'Ti', 8: 'O'}


def optimade_entry(name, crystal):
    symbols = [SYMBOLS[int(z)] for z in crystal.numbers]
    return dict(type='structures', id=name,
                attributes=dict(lattice_vectors=crystal.lattice.tolist(),
                                cartesian_site_positions=crystal.cart_coords.tolist(), species_at_sites=symbols,
                                species=[dict(name=s, chemical_symbols=[s], concentration=[1.])
                                         for s in sorted(set(symbols))]))


def mp_document(name, crystal):
    sites = [dict(species=[dict(element=SYMBOLS[int(z)], occu=1)], abc=list(x), label=SYMBOLS[int(z)], properties={})
             for z, x in zip(crystal.numbers, crystal.frac_coords)]
    return dict(material_id=name, structure={'@module': 'pymatgen.core.structure', '@class': 'Structure', 'charge': 0,
                                             'lattice': dict(matrix=crystal.lattice.tolist()), 'sites': sites})


class Database(ThreadingHTTPServer):
    "One server for both protocols; `mishaps[path]` befall the next requests for that path, in order"
    daemon_threads = True
    block_on_close = False

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.entries, self.mishaps, self.heard, self.delay, self.largest = crystals(), {}, [], 0, 1000
        self.url = f'http://127.0.0.1:{self.server_port}'
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, address): pass # a client that was killed

    def asked(self, path, what): return [int(q[what]) for p, q in self.heard if p == path and what in q]

    def respond(self, path, query, headers):
        "Status and body"
        if path == '/v1/info':
            return (200, dict(data=dict(type='info', id='/', attributes=dict(api_version='1.1.0')),
                              meta=dict(provider=dict(name='Test', prefix='test'))))
        if path == '/v1/structures':
            if 'FORBIDDEN' in query.get('filter', ''):
                return 400, dict(errors=[dict(status='400', title='Bad Request', detail='the filter does not parse')])
            start, size = int(query.get('page_offset', 0)), int(query.get('page_limit', 20))
            if size > self.largest:
                return 403, dict(errors=[dict(status='403', detail=f'page_limit is at most {self.largest}')])
            more = start + size < len(self.entries)
            following = (f'{self.url}/v1/structures?' + urlencode(query | dict(page_offset=start + size))
                         if more else None)
            return (200, dict(data=[e if isinstance(e, dict) else optimade_entry(*e)
                                    for e in self.entries[start:start + size]],
                              links=dict(next=following if start % 2 else following and dict(href=following)),
                              meta=dict(data_returned=len(self.entries), more_data_available=more)))
        if path == '/heartbeat':
            return (200, dict(status='OK', version='0.87.3', db_version='2025.09.25',
                              access_controlled_batch_ids=['gnome_r2scan_statics']))
        if path == '/materials/summary':
            if headers.get('x-api-key') != KEY: return 401, dict(detail='No API key found in request')
            if 'chemsys' in query and not query['chemsys'].replace('-', '').isalpha():
                return 400, dict(detail='Please verify that the chemsys is right')
            size = int(query.get('_per_page', query.get('_limit', 100)))
            if size > 1000: return 400, dict(detail='The max limit is 1000 entries')
            size = min(size, self.largest)
            skip = (int(query['_page']) - 1)*size if '_page' in query else int(query.get('_skip', 0))
            assert query['_fields'] == 'material_id,structure' and query['deprecated'] == 'False' and query['_sort_fields'] == 'material_id', query
            return (200, dict(data=[mp_document(*e) for e in self.entries[skip:skip + size]],
                              meta=dict(total_doc=len(self.entries), api_version='0.87.3',
                                        time_stamp='2026-01-01T00:00:00')))
        return 404, dict(detail='Not Found')


class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *args): pass

    def do_GET(self):
        url = urlsplit(self.path)
        path, query = url.path.rstrip('/'), {k: v[-1] for k, v in parse_qs(url.query).items()}
        self.server.heard.append((path, query))
        if path.endswith(('structures', 'summary')): time.sleep(self.server.delay)
        queue = self.server.mishaps.get(path, [])
        mishap = queue.pop(0) if queue else None
        if mishap == 'drop': self.connection.close(); self.close_connection = True; return
        if mishap == 'silence': time.sleep(1.2)
        status, said = ((mishap, dict(detail='not now')) if isinstance(mishap, int)
                        else self.server.respond(path, query, self.headers))
        body = json.dumps(said).encode()
        if mishap == 'truncated': body = body[:len(body)//2] # valid HTTP, broken JSON
        self.send_response(status)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(body)))
        if mishap == 429: self.send_header('Retry-After', '0')
        self.end_headers()
        self.wfile.write(body[:len(body)//2] if mishap == 'cut' else body) # fewer bytes than announced
        self.wfile.flush()
        if mishap == 'cut': self.close_connection = True


@pytest.fixture
def database():
    server = Database()
    yield server
    server.shutdown()
    server.server_close()


def check(path, entries=None, skip=()):
    "The file holds these crystals, once each, in order, with the right labels and coordinates"
    table, entries = (CrystalTable(path),
                      [(name, c, GROUPS[i % 5]) for i, (name, c) in enumerate(entries or crystals())
                       if name not in skip])
    assert list(table.material_id) == [name for name, _, _ in entries]
    assert list(table.space_group) == list(table.space_group_tight) == [group for _, _, group in entries]
    for found, (_, crystal, _) in zip(table, entries):
        assert np.allclose(found.lattice, crystal.lattice, atol=1e-5) and (found.numbers == crystal.numbers).all()
        assert np.allclose(found.frac_coords, crystal.frac_coords, atol=1e-5)
    assert pq.read_schema(path).equals(SCHEMA)
    assert [p for p in Path(path).parent.iterdir() if p.name != Path(path).name] == []


SOURCES = {'optimade': ('/v1/structures', 'page_offset',
                        lambda db, **kw: from_optimade(db.url, **dict(page_size=10, patience=QUICK) | kw)),
           'mp': ('/materials/summary', '_page',
                  lambda db, **kw: from_materials_project(KEY, endpoint=db.url,
                                                          **dict(page_size=10, patience=QUICK) | kw)),}


@pytest.mark.parametrize('kind', SOURCES)
def test_all_pages_arrive(kind, database, tmp_path):
    path, what, source = SOURCES[kind]
    done = collect(source(database), tmp_path/'all.parquet', progress=False)
    assert (done.n, done.exit_code, done.repeated) == (45, 0, 0)
    check(done.path)
    asked = database.asked(path, what)
    assert asked == ([10, 20, 30, 40] if kind == 'optimade' else [1, 2, 3, 4, 5, 6])
    assert len(list(source(database))) == 45 # and as plain rows


@pytest.mark.parametrize('kind', SOURCES)
def test_failures_in_the_middle(kind, database, tmp_path):
    path, _, source = SOURCES[kind]
    database.mishaps = {path: [None, 500, None, 'truncated', 'cut', 503, None, 'drop', 429, None], '/v1/info': [502],
                        '/heartbeat': [None, 503]}
    assert collect(source(database), tmp_path/'all.parquet', progress=False).n == 45
    check(tmp_path/'all.parquet')
    assert not database.mishaps[path]


def test_silent_server(database, tmp_path):
    database.mishaps = {'/v1/structures': [None, 'silence']}
    assert collect(from_optimade(database.url, page_size=30, patience=Patience(tries=2, wait=.01, timeout=.6)),
                   tmp_path/'all.parquet', progress=False).n == 45


@pytest.mark.parametrize('kind', SOURCES)
def test_gives_up_keeps_what_came_and_goes_on(kind, database, tmp_path):
    path, what, source = SOURCES[kind]
    out = tmp_path/'all.parquet'
    database.mishaps = {path: [None, None] + [500]*(QUICK.tries*4)}
    with pytest.raises(DatabaseError, match='run the same command again'):
        collect(source(database), out, progress=False)
    assert not out.exists() and (tmp_path/'all.parquet.parts'/'000001.parquet').exists()
    with pytest.raises(TableError, match='another collection'):
        collect(source(database, page_size=11), out, progress=False)
    database.mishaps, database.heard[:] = {}, []
    assert collect(source(database), out, progress=False).n == 45
    check(out)
    # the first two pages are not asked for again
    assert min(database.asked(path, what)) == (20 if kind == 'optimade' else 3)


SCRIPT = '''
import sys
from msdn_nb.databases import from_optimade
from msdn_nb.sources import collect
collect(from_optimade(sys.argv[1], page_size=5), sys.argv[2])
'''


def test_killed_process_is_resumed(database, tmp_path):
    out, state = tmp_path/'all.parquet', tmp_path/'all.parquet.parts'/'state.json'
    database.delay = .3
    process = subprocess.Popen([sys.executable, '-c', SCRIPT, database.url, str(out)], stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while process.poll() is None and not (state.exists()
                                          and json.loads(state.read_text())['parts'] >= 3) and time.time() < deadline:
        time.sleep(.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    kept = json.loads(state.read_text())['rows']
    assert 15 <= kept < 45
    (tmp_path/'all.parquet.parts'/f'{kept//5:06}.parquet').write_bytes(b'half a part that was never noted')
    database.delay, database.heard[:] = 0, []
    assert collect(from_optimade(database.url, page_size=5, patience=QUICK), out, progress=False).n == 45
    check(out)
    assert min(database.asked('/v1/structures', 'page_offset')) == kept


def test_refusals_are_final_and_say_what_to_do(database, tmp_path, monkeypatch):
    out, ask = tmp_path/'x.parquet', lambda source: collect(source, out, progress=False)
    def refused(source, words):
        database.heard.clear()
        with pytest.raises(TableError, match=words): ask(source)
        assert len(database.heard) <= 4
    refused(from_optimade(database.url, filter='FORBIDDEN', patience=QUICK), 'the filter does not parse')
    database.largest = 50
    refused(from_optimade(database.url, page_size=60, patience=QUICK), 'at most 50')
    refused(from_optimade(database.url + '/elsewhere', patience=QUICK), 'status 404')
    refused(from_materials_project('x'*32, endpoint=database.url, patience=QUICK), 'check MP_API_KEY')
    refused(from_materials_project(KEY, endpoint=database.url, page_size=5000, patience=QUICK), 'question is refused')
    refused(from_materials_project(KEY, endpoint=database.url, chemsys='1', patience=QUICK), 'question is refused')
    refused(from_materials_project(KEY, endpoint=database.url, colour='blue', patience=QUICK), 'question is refused')
    monkeypatch.delenv('MP_API_KEY', raising=False)
    monkeypatch.setattr('pymatgen.core.SETTINGS', {})
    with pytest.raises(DatabaseError, match='MP_API_KEY'): from_materials_project()
    monkeypatch.setenv('MP_API_KEY', KEY)
    assert KEY not in repr(from_materials_project())
    with pytest.raises(DatabaseError, match='no OPTIMADE database'): from_optimade('nowhere')
    assert not out.exists()


def test_short_pages_and_odd_entries(database, tmp_path):
    database.largest = 8 # a server that gives shorter pages than asked for
    assert collect(from_materials_project(KEY, endpoint=database.url, page_size=10, patience=QUICK),
                   tmp_path/'all.parquet', progress=False).n == 45
    check(tmp_path/'all.parquet')
    first = dict(optimade_entry(*database.entries[0]))
    half = json.loads(json.dumps(first)); half['id'] = 'half'
    half['attributes']['species'][0] |= dict(chemical_symbols=['Li', 'vacancy'], concentration=[.5, .5])
    bare = json.loads(json.dumps(first)); bare['id'] = 'bare'; bare['attributes'].pop('species')
    lost = dict(type='structures', id='lost',
                attributes=dict(lattice_vectors=None, cartesian_site_positions=[], species_at_sites=[], species=[]))
    odd = json.loads(json.dumps(first)); odd['id'] = 'odd'
    odd['attributes'] |= dict(species_at_sites=['X'],
                              species=[dict(name='X', chemical_symbols=['X'], concentration=[1.])])
    database.entries = [first, half, bare, lost, odd, first]
    done = collect(from_optimade(database.url, page_size=4, patience=QUICK), tmp_path/'all.parquet', progress=False)
    assert list(CrystalTable(done.path).material_id) == ['mp-1000', 'bare'] and done.repeated == 1
    assert [name for name, _ in done.failed] == ['half', 'lost', 'odd'] and done.exit_code == 1
    assert all(name in reason for name, reason in done.failed)
    database.entries, database.largest = [], 1000
    with pytest.raises(TableError, match='gave no crystal'):
        collect(from_optimade(database.url, patience=QUICK), tmp_path/'none.parquet', progress=False)
    assert not (tmp_path/'none.parquet').exists() and not (tmp_path/'none.parquet.parts').exists()


def test_limit(database, tmp_path):
    _, _, source = SOURCES['optimade']
    assert collect(source(database), tmp_path/'all.parquet', progress=False, limit=13).n == 13
    check(tmp_path/'all.parquet', crystals(13))


@pytest.fixture(scope='module')
def rows(): return [crystal_row(c, name) for name, c in crystals()]


def test_tables_that_are_not(rows, tmp_path):
    good = tmp_path/'good.parquet'
    assert write_crystals(good, rows) == 45
    for size in (0, 4, 100, good.stat().st_size//2, good.stat().st_size - 1):
        (tmp_path/'cut.parquet').write_bytes(good.read_bytes()[:size])
        with pytest.raises(TableError, match=r'cut\.parquet.*collect it again'): read_crystals(tmp_path/'cut.parquet')
    holed = bytearray(good.read_bytes()); holed[200:-2500] = bytes(len(holed) - 2700)
    (tmp_path/'holed.parquet').write_bytes(holed)
    with pytest.raises(TableError, match=r'holed\.parquet'): read_crystals(tmp_path/'holed.parquet')
    pq.write_table(read_crystals(good).drop_columns(['numbers', 'space_group']), tmp_path/'other.parquet')
    for job in (read_crystals, CrystalTable):
        with pytest.raises(TableError,
                           match=r'other\.parquet: the columns space_group, numbers are missing.*write_crystals'):
            job(tmp_path/'other.parquet')
    with pytest.raises(TableError, match='other types'): # text where numbers belong
        pq.write_table(read_crystals(good).set_column(5, 'numbers', pa.array(['x']*45)), tmp_path/'types.parquet')
        read_crystals(tmp_path/'types.parquet')
    loose = [dict(r, lattice=list(map(float, r['lattice'])), numbers=list(map(int, r['numbers'])),
                  frac_coords=list(map(float, r['frac_coords']))) for r in rows]
    # 64-bit lists of any length, as pandas writes them
    pq.write_table(pa.Table.from_pylist(loose), tmp_path/'loose.parquet')
    assert read_crystals(tmp_path/'loose.parquet').equals(read_crystals(good))
    with pytest.raises(TableError, match='no such file'): CrystalTable(tmp_path/'none.parquet')
    with pytest.raises(TableError): CrystalTable(tmp_path)


def test_a_write_that_fails_leaves_the_old_file(rows, tmp_path):
    path = tmp_path/'x.parquet'
    write_crystals(path, rows[:3])
    before = data_hash(path)
    def broken(): yield from rows[:5]; raise RuntimeError('stop')
    with pytest.raises(RuntimeError): write_crystals(path, broken())
    assert data_hash(path) == before and [p.name for p in tmp_path.iterdir()] == ['x.parquet']
    with pytest.raises(TableError, match='may write to'): write_crystals(tmp_path/'no'/'x.parquet', rows)
    with pytest.raises(TableError, match='may write to'):
        collect(from_prototypes(), tmp_path/'no'/'x.parquet', progress=False)


def test_table_views(rows, tmp_path):
    write_crystals(tmp_path/'x.parquet', rows)
    table = CrystalTable(tmp_path/'x.parquet')
    assert len(table[10:20]) == 10 and table[10:20][3].name == table[13].name == table[-32].name
    assert list(table[table.space_group == 225][[2, 0]].material_id) == ['mp-1012', 'mp-1002']
    assert list(table.prototypes[:5]) == ['221 A 1', '229 A 2', '225 A 4', '221 AB 2', '221 ABC3 5']
    with pytest.raises(IndexError): table[45]
    assert len(read_crystals(tmp_path/'x.parquet', ['formula'], rows=[3, 1])) == 2


def test_state_that_was_damaged(tmp_path):
    parts = tmp_path/'x.parquet.parts'; parts.mkdir()
    (parts/'state.json').write_text('{"question": [')
    source = Source('list', {}, lambda cursor: iter([Page(crystals(10), None)]))
    with pytest.raises(TableError, match='delete this folder'): collect(source, tmp_path/'x.parquet', progress=False)
    assert collect(source, tmp_path/'x.parquet', resume=False, progress=False, limit=5).n == 5


def test_folder_names_bad_files_and_takes_the_rest(tmp_path):
    folder = tmp_path/'in'; (folder/'sub').mkdir(parents=True)
    crystal = crystals(2)[1][1].to_pymatgen()
    for name in ('a.cif', 'sub/a.cif', 'a.vasp'):
        crystal.to(filename=str(folder/name), fmt='cif' if name.endswith('cif') else 'poscar')
    (folder/'bad.cif').write_text('no')
    (folder/'empty.cif').write_text('')
    (folder/'README.md').write_text('not a structure, and not meant to be one')
    (folder/'.hidden.cif').write_text('no')
    done = collect(from_folder(folder), tmp_path/'x.parquet', progress=False)
    assert sorted(CrystalTable(done.path).material_id) == ['a.cif', 'a.vasp', 'sub/a']
    assert [name for name, _ in done.failed] == ['bad', 'empty'] and done.exit_code == 1
    assert all(f'{name}.cif' in reason for name, reason in done.failed)
    for name in ('a.cif', 'sub/a.cif', 'a.vasp'): (folder/name).unlink()
    with pytest.raises(TableError, match='bad.cif'): collect(from_folder(folder), tmp_path/'y.parquet', progress=False)


@pytest.mark.parametrize('seed', [0, 7])
def test_splits(seed):
    rng = np.random.default_rng(seed)
    groups = rng.choice([2, 14, 62, 225], 3000, p=[.1, .4, .3, .2])
    kinds = np.array([f'{g} {int(rng.exponential(12))}' for g in groups])
    for split in (lambda s, f: random_split(groups, f, s), lambda s, f: prototype_split(groups, kinds, f, s)):
        for fractions in ((.9, .1), (.8, .1, .1), (.5, .2)):
            parts = split(seed, fractions)
            joined = np.concatenate(parts)
            assert len(set(joined)) == len(joined) and all((np.diff(p) > 0).all() for p in parts)
            assert all((a == b).all() for a, b in zip(parts, split(seed, fractions)))
            assert any(len(a) != len(b) or (a != b).any() for a, b in zip(parts, split(seed + 1, fractions)))
    for part, share in zip(random_split(groups, (.8, .1, .1), seed), (.8, .1, .1)):
        for g in np.unique(groups): assert abs((groups[part] == g).sum() - share*(groups == g).sum()) <= 1
    train, test = prototype_split(groups, kinds, (.8, .2), seed)
    assert not set(kinds[train]) & set(kinds[test]) and len(train) + len(test) == 3000
    for g in np.unique(groups): assert .15 < (groups[test] == g).sum()/(groups == g).sum() < .25
    alone = groups == 62 # a group is divided the same way whichever others are there
    assert (np.flatnonzero(alone)[random_split(groups[alone], (.9, .1), seed)[1]]
            == [i for i in random_split(groups, (.9, .1), seed)[1] if alone[i]]).all()


def test_random_crystals():
    pytest.importorskip('pyxtal', reason='PyXtal is not installed')
    found = list(from_pyxtal([2, 14, 62, 141, 194, 225], per_group=2, seed=3))
    assert [r['space_group'] for r in found] == np.repeat([2, 14, 62, 141, 194, 225], 2).tolist()
    again = list(from_pyxtal([62], per_group=2, seed=3))
    assert all((a['frac_coords'] == b['frac_coords']).all() for a, b in zip(again, found[4:6]))


def test_the_shared_materials_project():
    path = shared_path('mp/structures.parquet')
    if path is None: pytest.skip('needs mp/structures.parquet beside the checkout')
    table = CrystalTable(path)
    for i in np.random.default_rng(0).choice(len(table), 40, replace=False):
        row = crystal_row(table[int(i)])
        assert (row['formula'], row['space_group'],
                row['space_group_tight']) == (table.formula[i], table.space_group[i], table.space_group_tight[i])
