"""`msdn reproduce`: the list, bad names, missing data, every experiment's quick form, and a run that is killed half-way."""
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from msdn_nb.cli import app
from msdn_nb.experiments import ExperimentError, experiment, experiments, find_experiment, reproduce, shown

from little_database import write_little_database

ROOT = Path(__file__).resolve().parent.parent
MINUTES = 2  # a quick form may take on two cores
TOY = '''
import os, signal, sys, time
from pathlib import Path
from msdn_nb.experiments import experiment, mean_std, reproduce

@experiment('toy', paper='', about='squares', minutes=.01)
def toy(run):
    "Squares, one a step; told to a log, so that a test sees which were computed"
    def square(i):
        with open(os.environ['TOY_LOG'], 'a') as log: log.write(f'{i}\\n')
        if os.environ.get('TOY_STOP') == str(i):
            Path(os.environ['TOY_LOG']).with_name('waiting').touch()
            time.sleep(600)
        return dict(square=i*i)
    size = run.size(full=dict(n=6), quick=dict(n=3))
    return dict(squares=[run.step(f'square-{i}', square, i)['square'] for i in range(size.n)], sample=run.arrays('sample', lambda: dict(x=[run.seed]))['x'])

if __name__ == '__main__': print(reproduce('toy', out=sys.argv[1], folder=sys.argv[2], seed=int(sys.argv[3]), quick='quick' in sys.argv))
'''


def msdn(*args):
    "Exit code, stdout and stderr of a command"
    done = CliRunner().invoke(app, [str(a) for a in args])
    if done.exception and not isinstance(done.exception, SystemExit): raise done.exception
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def toy(tmp_path):
    "Start the toy experiment in a process of its own"
    (tmp_path/'toy.py').write_text(TOY, encoding='utf-8')
    def start(seed=0, *options, stop=''):
        environment = {**os.environ, 'TOY_LOG': str(tmp_path/'log'), 'TOY_STOP': stop, 'PYTHONPATH': str(ROOT)}
        return subprocess.Popen([sys.executable, tmp_path/'toy.py', tmp_path/'out', tmp_path/'run', str(seed),
                                 *options], cwd=tmp_path, env=environment, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)
    return start


def processor_seconds():
    "Of all processes that this one has started and that have ended"
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def computed(folder): return (folder/'log').read_text().split()


def test_list_names_every_experiment():
    code, out, err = msdn('reproduce')
    assert (code, err) == (0, '') and all(name in out for name in experiments())
    code, out, err = msdn('reproduce', '--json')
    rows = json.loads(out)
    assert ([r['name'] for r in rows] == [*experiments()]
            and {*rows[0]} == {'name', 'paper', 'about', 'needs', 'missing', 'minutes', 'done', 'date'})
    assert all(r['about'] and r['minutes'] > 0 for r in rows)


def test_done_says_what_the_results_say():
    done = {r['name']: r['done'] for r in json.loads(msdn('reproduce', '--json', '--out', ROOT/'results')[1])}
    assert done['ceilings'] == json.loads((ROOT/'results/ceilings.json').read_text(encoding='utf-8'))['form'] == 'full'


@pytest.mark.parametrize('name', ['ceiling', 'CEILINGS', '', '../ceilings', 'quick', 'ceilings.json', '\u2603'])
def test_unknown_name_is_answered_with_the_names(name):
    code, out, err = msdn('reproduce', name, '--json')
    assert (code, out) == (2, '') and all(known in err for known in experiments()) and 'Traceback' not in err
    with pytest.raises(ExperimentError, match='there are .*ceilings'): find_experiment(name)


def test_quick_and_full_exclude_each_other():
    assert msdn('reproduce', 'ceilings', '--quick', '--full')[0] == 2


def test_missing_data_says_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv('MSDN_SHARED', str(tmp_path/'nothing'))
    registry = sys.modules['msdn_nb.experiments']._REGISTRY
    experiment('wants-mp', paper='', about='needs structures', needs='mp')(lambda run: dict(n=len(run.table)))
    try:
        code, out, err = msdn('reproduce', 'wants-mp', '--quick', '--out', tmp_path, '--folder', tmp_path/'run',
                              '--json')
        assert code == 1 and 'msdn data mp' in json.loads(out)['error'] and 'hour' in err
        assert 'missing' in msdn('reproduce')[1]
        code, out, err = msdn('reproduce', 'wants-mp', '--data', tmp_path/'none.parquet', '--out', tmp_path, '--folder',
                              tmp_path/'run', '--json')
        assert code == 1 and 'none.parquet' in json.loads(out)['error']
        (tmp_path/'bad.parquet').write_text('no table')
        code, out, err = msdn('reproduce', 'wants-mp', '--data', tmp_path/'bad.parquet', '--out', tmp_path, '--folder',
                              tmp_path/'run', '--json')
        assert code == 1 and 'bad.parquet' in json.loads(out)['error'] and not (tmp_path/'wants-mp.json').exists()
    finally: del registry['wants-mp']
    code, out, err = msdn('reproduce', 'ceilings', '--data', tmp_path/'bad.parquet', '--out', tmp_path, '--json')
    assert code == 1 and 'leave out --data' in json.loads(out)['error']


@pytest.fixture(scope='session')
def little_database(tmp_path_factory):
    return write_little_database(tmp_path_factory.mktemp('little')/'little.parquet')


@pytest.mark.parametrize('name', experiments())
def test_quick_form(name, tmp_path, request):
    "Every experiment runs in its quick form, within its time, and leaves the results alone; where the structures are not here, on made-up ones"
    missing, instead = experiments()[name].missing, []
    if missing and set(experiments()[name].needs) == {'mp'}: instead = ['--data', request.getfixturevalue('little_database')]
    elif missing: pytest.skip(f'{name} reads {", ".join(missing)}, which is not here')
    kept = ROOT/f'results/{name}.json'
    before = kept.read_bytes() if kept.exists() else None
    start, spent = time.perf_counter(), processor_seconds()
    done = subprocess.run([sys.executable, '-c', 'from msdn_nb.cli import main; main()', 'reproduce', name, '--quick',
                           '--out', tmp_path, '--folder', tmp_path/'run', '--json', *instead], cwd=ROOT,
                          capture_output=True, text=True)
    seconds = min(time.perf_counter() - start, processor_seconds() - spent)  # other work on the machine does not count
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document == json.loads((tmp_path/f'{name}.json').read_text(encoding='utf-8')) and document['form'] == 'quick'
    assert {n: d['data_hash'] for n, d in document['data'].items()}.keys() == set(experiments()[name].needs)
    assert (kept.read_bytes() if kept.exists() else None) == before
    assert seconds < 60*MINUTES, f'{seconds:.0f} s; make the quick form of {name} smaller'


def test_killed_run_goes_on(toy, tmp_path):
    "Killed in its fourth step, without a chance to tidy up; the next session computes that step and those after it"
    first = toy(stop='3')
    deadline = time.time() + 120
    while not (tmp_path/'waiting').exists() and time.time() < deadline and first.poll() is None: time.sleep(.05)
    assert first.poll() is None, first.communicate()
    first.send_signal(signal.SIGKILL); first.wait()
    assert computed(tmp_path) == ['0', '1', '2', '3'] and not (tmp_path/'out/toy.json').exists()
    times = {p: p.stat().st_mtime_ns for p in (tmp_path/'run/steps').glob('*.json')}
    second = toy(); out, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    assert (computed(tmp_path) == ['0', '1', '2', '3', '3', '4', '5']
            and all(p.stat().st_mtime_ns == t for p, t in times.items()))
    document = shown('toy', tmp_path/'out')
    assert (document['squares'] == [0, 1, 4, 9, 16, 25] and list(document['steps'])
            == [*(f'square-{i}' for i in range(6)), 'sample'])
    assert document['wall_time_s'] >= sum(document['steps'].values()) - .01


def test_circumstances_never_mix(toy, tmp_path):
    def ask(*args): process = toy(*args); return (*process.communicate(timeout=120), process.returncode)
    assert ask()[2] == ask()[2] == 0
    out, err, code = ask(1)
    assert code and 'seed was 0 and is now 1' in err and 'delete this folder' in err
    out, err, code = ask(0, 'quick')
    assert code and 'toy.json holds a full measurement' in err
    (tmp_path/'out/toy.json').unlink()
    out, err, code = ask(0, 'quick')
    assert code and "form was '' and is now 'quick'" in err
    assert len(computed(tmp_path)) == 6


def test_quick_run_leaves_a_result_alone(tmp_path):
    (tmp_path/'ceilings.json').write_text('{"form": "full"}')
    code, out, err = msdn('reproduce', 'ceilings', '--quick', '--out', tmp_path, '--folder', tmp_path/'run', '--json')
    assert code == 1 and 'must not overwrite' in json.loads(out)['error']
    assert (tmp_path/'ceilings.json').read_text() == '{"form": "full"}'


def test_results_are_kept_in_the_checkout(tmp_path, monkeypatch):
    "From a notebook's folder, the result goes to the checkout; elsewhere, to the working folder"
    from msdn_nb.experiments import result_path
    monkeypatch.chdir(ROOT/'nbs/experiments')
    assert (result_path('x'), result_path('x', quick=True)) == (ROOT/'results/x.json', ROOT/'runs/quick/x.json')
    monkeypatch.chdir(tmp_path)
    assert result_path('x') == tmp_path/'results/x.json'


def test_every_committed_result_of_an_experiment_tells_how_it_was_made():
    for name in experiments():
        path = ROOT/f'results/{name}.json'
        if not path.exists(): continue
        document = json.loads(path.read_text(encoding='utf-8'))
        assert (document['form'] in ('reduced', 'full') and document['command'].startswith(f'msdn reproduce {name}')
                and document['hardware'] and document['date'])
        assert document['form'] == 'full' or document['size']['full_command'] == f'msdn reproduce {name} --full'
        assert set(document['data']) == set(experiments()[name].needs) and document['wall_time_s'] > 0


def test_an_experiment_that_is_no_dict_of_plain_values_is_refused(tmp_path):
    registry = sys.modules['msdn_nb.experiments']._REGISTRY
    experiment('odd', paper='', about='wrong on purpose')(lambda run: dict(seed=3))
    try:
        with pytest.raises(ExperimentError, match='choose other keys'):
            reproduce('odd', out=tmp_path, folder=tmp_path/'run')
        experiment('odd', paper='', about='wrong on purpose')(lambda run: dict(x={1, 2}))
        with pytest.raises(ExperimentError, match='set'): reproduce('odd', out=tmp_path, folder=tmp_path/'run')
        experiment('odd', paper='', about='wrong on purpose')(lambda run: dict(x=run.step('a/b', int)))
        with pytest.raises(ExperimentError, match='letters'): reproduce('odd', out=tmp_path, folder=tmp_path/'run')
        assert not (tmp_path/'odd.json').exists()
    finally: del registry['odd']
