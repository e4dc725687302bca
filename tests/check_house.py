"""Run everything that must hold before a change goes in, and count it.

Clean notebooks stay as they are, the exported library is the notebooks' own, README.md is the landing page, nbdev can
make the site's pages, every notebook's lessons hold, and so do the tests. The first two steps work on a copy, so the
working tree is only read. The last line counts every check, notebook and test.

    python tests/check_house.py [--workers N] [--only clean,export,readme,site,notebooks,pytest]
"""
import argparse
import ast
import difflib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STEPS = 'clean', 'export', 'readme', 'site', 'notebooks', 'pytest'
SOURCES = 'nbs/**/*.ipynb', 'nbs/llms.txt', 'msdn_nb/**/*.py', 'pyproject.toml', 'settings.ini', 'setup.py'
PAGE = ('import sys; from fastcore.nbio import read_nb; from nbdev.processors import FilterDefaults; '
        'FilterDefaults()(read_nb(sys.argv[1]))')
TIME_LIMIT = 900  # seconds for one notebook
BIN = Path(sys.executable).parent
ENV = {**os.environ, 'PATH': f"{BIN}{os.pathsep}{os.environ['PATH']}", 'MPLBACKEND': 'Agg',
       'PYTHONDONTWRITEBYTECODE': '1'}
for threads in 'OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS': ENV.setdefault(threads, '1')


def hidden(path): return any(part.startswith(('_proc', '_docs', '.')) for part in path.parts)


def sources(root):
    "Contents of notebooks, library and configuration under `root`, by relative path."
    paths = {path.relative_to(root) for pattern in SOURCES for path in root.glob(pattern)}
    return {str(path): (root/path).read_bytes() for path in sorted(paths) if not hidden(path)}


def call(command, cwd=ROOT, timeout=None):
    "Exit code and joined output of a command."
    try:
        done = subprocess.run([str(c) for c in command], cwd=cwd, env=ENV, timeout=timeout, text=True, errors='replace',
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except subprocess.TimeoutExpired as error:
        output = error.stdout or ''
        return (124, (output if isinstance(output, str)
                      else output.decode(errors='replace'))+f'\nstopped after {timeout} s')
    return done.returncode, done.stdout


def shown_difference(before, after, limit=40):
    "What a step changed, as short unified diffs."
    shown = []
    for name in sorted({*before, *after}):
        old, new = before.get(name, b''), after.get(name, b'')
        if old == new: continue
        lines = list(difflib.unified_diff(old.decode(errors='replace').splitlines(),
                                          new.decode(errors='replace').splitlines(), name, f'{name}, written anew', n=1,
                                          lineterm=''))
        shown += [line[:200] for line in lines[:limit]] + (['...'] if len(lines) > limit else [])
    return '\n'.join(shown)


def unchanged_by(*command):
    "Run a command on a copy of the sources; what it would change, or nothing."
    before = sources(ROOT)
    with tempfile.TemporaryDirectory(prefix='house-') as folder:
        copy = Path(folder)
        for name, content in before.items():
            (copy/name).parent.mkdir(parents=True, exist_ok=True)
            (copy/name).write_bytes(content)
        code, output = call(command, cwd=copy)
        return output if code else shown_difference(before, sources(copy))


def readme_drift():
    code, output = call([sys.executable, ROOT/'tests/readme.py', '--check'])
    return output if code else ''


def flagged_imports(notebook):
    "Cells that the lessons skip but the site would run, because nbdev runs every cell that imports when it makes a page."
    flags = tomllib.loads((ROOT/'pyproject.toml').read_text(encoding='utf-8'))['tool']['nbdev']['tst_flags'].split()
    for n, cell in enumerate(json.loads(notebook.read_text(encoding='utf-8'))['cells']):
        source = ''.join(cell['source'])
        if cell['cell_type'] != 'code' or not re.search(rf"^#\|\s*({'|'.join(flags)})\b", source, re.M): continue
        try: tree = ast.parse(source)
        except SyntaxError: continue
        if any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.walk(tree)):
            yield f'cell {n} is skipped by the lessons but imports, so the site would run it: import in a cell of its own'


def page(notebook):
    "What keeps nbdev from making one notebook's page, or nothing. It runs exported cells and cells that import, alone."
    problems = [*flagged_imports(notebook)]
    code, output = call([sys.executable, '-c', PAGE, notebook], timeout=TIME_LIMIT)
    if code:
        problems.append('a cell that imports holds code that needs other cells: import in a cell of its own\n'+output[output.rfind('Exception:'):])
    return '\n'.join(f'{notebook.relative_to(ROOT)}: {p}' for p in problems)


def lessons(notebook):
    "Run one notebook's lessons in a process of its own."
    start = time.time()
    code, output = call([BIN/'nbdev-test', notebook, '--n-workers', 0], timeout=TIME_LIMIT)
    return notebook, code == 0, time.time()-start, output


def pytest_counts():
    "Passed, failed and skipped tests, from pytest's own report."
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder)/'report.xml'
        code = subprocess.call([sys.executable, '-m', 'pytest', f'--junitxml={report}', '-p', 'no:cacheprovider'],
                               cwd=ROOT, env=ENV)
        if not report.exists(): return 0, 1, 0
        suites = list(ET.parse(report).getroot().iter('testsuite'))
    total, failed, errors, skipped = (sum(int(s.get(k, 0)) for s in suites)
                                      for k in ('tests', 'failures', 'errors', 'skipped'))
    bad = failed+errors
    if code and not bad: bad, total = 1, total+1 # also where no test was found
    return total-bad-skipped, bad, skipped


class Count:
    "Passed, failed and skipped so far."
    def __init__(self): self.passed = self.failed = self.skipped = 0

    def add(self, name, problem, seconds=None):
        self.failed += bool(problem)
        self.passed += not problem
        print(f"{'FAILED' if problem else 'passed'}  {name}"+('' if seconds is None else f' ({seconds:.1f} s)'),
              flush=True)
        if problem: print('\n'.join('    '+line for line in problem.strip().splitlines()[-60:]), flush=True)

    def line(self):
        return f'{self.passed} passed, {self.failed} failed'+(f', {self.skipped} skipped' if self.skipped else '')


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--workers', type=int, default=2, help='notebooks at a time (default 2)')
    parser.add_argument('--only', default=','.join(STEPS), help=f"steps, comma-separated: {', '.join(STEPS)}")
    options = parser.parse_args()
    steps, count = options.only.split(','), Count()
    if unknown := set(steps)-set(STEPS):
        parser.error(f"no such step: {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    if 'clean' in steps: count.add('nbdev-clean changes nothing', unchanged_by(BIN/'nbdev-clean'))
    if 'export' in steps: count.add('nbdev-export changes nothing', unchanged_by(BIN/'nbdev-export'))
    if 'readme' in steps: count.add('README.md is rendered from index.ipynb', readme_drift())
    notebooks = [p for p in sorted(ROOT.glob('nbs/**/*.ipynb')) if not hidden(p.relative_to(ROOT))]
    if not notebooks and {'site', 'notebooks'} & set(steps): parser.error('there are no notebooks in nbs/')
    with ThreadPoolExecutor(options.workers) as pool:
        if 'site' in steps:
            count.add("nbdev makes every notebook's page", '\n'.join(filter(None, pool.map(page, notebooks))))
        if 'notebooks' in steps:
            for path, good, seconds, output in pool.map(lessons, notebooks):
                count.add(path.relative_to(ROOT), '' if good else output or 'no output', seconds)
    if 'pytest' in steps:
        passed, failed, skipped = pytest_counts()
        count.passed += passed; count.failed += failed; count.skipped += skipped
    print(count.line(), flush=True)
    return count.failed > 0


if __name__ == '__main__': sys.exit(main())
