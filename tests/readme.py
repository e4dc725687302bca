"""Render README.md from nbs/index.ipynb.

    python tests/readme.py           run index.ipynb, store its outputs, write README.md
    python tests/readme.py --check   the same in memory: exit code 1 if README.md or the stored outputs would change

Markdown cells go over as they are, code cells as fences with their results below. `#| hide` leaves a cell out,
`#| echo: false` leaves its code out. Links are turned from `nbs/` to the top of the repository.
"""
import base64
import copy
import difflib
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INDEX, README = ROOT/'nbs/index.ipynb', ROOT/'README.md'
NOTE = '<!-- Rendered from nbs/index.ipynb by tests/readme.py. Edit the notebook, then run `make readme`. -->'
DIRECTIVE = re.compile(r'^#\|\s*([\w-]+)\s*:?\s*(.*)$')
LINK = re.compile(r'(!?\[[^\]]*\]\()([^)\s]+)')


def text(value): return ''.join(value) if isinstance(value, list) else value or ''


def directives(source):
    "Directives at the head of a cell, name -> value."
    found = {}
    for line in source.splitlines():
        match = DIRECTIVE.match(line)
        if not match: break
        found[match[1]] = match[2].strip()
    return found


def code_of(source): return '\n'.join(line for line in source.splitlines() if not line.startswith('#|')).strip('\n')


def from_top(markdown):
    "Turn links relative to `nbs/` into links relative to the top of the repository; code is left alone."
    def turn(match):
        link = match[2]
        if re.match(r'[a-z]+:|#|/', link): return match[0]
        return match[1]+os.path.normpath('nbs/'+link).replace(os.sep, '/')
    parts = re.split(r'(```.*?```|`[^`\n]*`)', markdown, flags=re.S)
    return ''.join(part if i % 2 else LINK.sub(turn, part) for i, part in enumerate(parts))


def picture(cell, n, png, write):
    "A picture becomes a file beside the notebook, named after its cell."
    path = INDEX.parent/'index_files'/f"{cell.get('id', 'cell')}-{n}.png"
    if write:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(base64.b64decode(text(png)))
    return f'![]({path.relative_to(ROOT).as_posix()})'


def output_of(cell, n, output, write):
    "One stored output as markdown."
    if output['output_type'] == 'stream': return fence(text(output['text']))
    data = output.get('data', {})
    if 'text/markdown' in data: return from_top(text(data['text/markdown']).strip())
    if 'image/png' in data: return picture(cell, n, data['image/png'], write)
    return fence(text(data.get('text/plain')))


def fence(body, language=''):
    body = body.strip('\n')
    return f'```{language}\n{body}\n```' if body.strip() else ''


def render(nb, write=False):
    "The README's text from a loaded notebook."
    parts = [NOTE]
    for cell in nb['cells']:
        source = text(cell['source']).strip()
        flags = directives(source)
        if not source or 'hide' in flags or cell['cell_type'] == 'raw': continue
        if cell['cell_type'] == 'markdown': parts.append(from_top(code_of(source)))
        else:
            if flags.get('echo') != 'false': parts.append(fence(code_of(source), 'python'))
            if flags.get('output') != 'false':
                parts += [output_of(cell, n, o, write) for n, o in enumerate(cell.get('outputs', []))]
    return '\n\n'.join(part for part in parts if part)+'\n'


def run(nb):
    "The same notebook with fresh outputs; cells that the lessons skip keep their stored ones."
    from execnb.shell import CaptureShell
    from nbdev.config import get_config
    nb, skipped = copy.deepcopy(nb), set(get_config(INDEX.parent).tst_flags.split())
    shell, here = CaptureShell(INDEX), Path.cwd()
    os.chdir(INDEX.parent)
    try:
        for cell in nb['cells']:
            flags = directives(text(cell['source']))
            if cell['cell_type'] != 'code' or skipped & set(flags) or flags.get('eval') == 'false': continue
            shell.cell(cell)
            if shell.exc: raise RuntimeError(f"index.ipynb fails in\n{text(cell['source'])}\n{shell.exc!r}")
    finally: os.chdir(here)
    return nb


def difference(old, new, what):
    return ''.join(difflib.unified_diff(old.splitlines(True), new.splitlines(True), what, f'{what}, rendered anew',
                                        n=1))


def check():
    "Differences between README.md, index.ipynb as stored and index.ipynb as it runs now; empty if there are none."
    from fastcore.nbio import read_nb
    stored = read_nb(INDEX)
    readme = README.read_text(encoding='utf-8') if README.exists() else ''
    old = render(stored)
    return difference(readme, old, 'README.md') + difference(old, render(run(stored)), 'nbs/index.ipynb')


def main():
    from fastcore.nbio import read_nb, write_nb
    if '--check' in sys.argv:
        drift = check()
        print(drift or 'README.md is nbs/index.ipynb as it runs today.')
        return bool(drift)
    from nbdev.clean import nbdev_clean
    nb = run(read_nb(INDEX))
    write_nb(nb, INDEX)
    nbdev_clean(fname=str(INDEX))
    partial = README.with_name('README.md.part')
    partial.write_text(render(read_nb(INDEX), write=True), encoding='utf-8')
    partial.replace(README)


if __name__ == '__main__': sys.exit(main())
