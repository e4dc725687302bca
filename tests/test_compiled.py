"Compiled functions kept on disk: several processes may compile one function at once."
import subprocess
import sys
import time

MODULE = '''
import sys, time
import numpy as np
from msdn_nb.shaping import compiled

@compiled
def total(x):
    s = x[0]*0
    for v in x: s += v
    return s

KINDS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.float32, np.float64]
if __name__ == '__main__':
    file = total._cache._cache_file; read = file._load_index
    def slowly(): # so that the others have time to come between reading the list and writing it
        found = read(); time.sleep(.3); return found
    file._load_index = slowly
    while time.time() < float(sys.argv[2]): time.sleep(.001)
    for kind in KINDS[int(sys.argv[1])::4]: total(np.arange(5, dtype=kind))
'''


def test_processes_do_not_mix_what_they_keep(tmp_path):
    (tmp_path/'summing.py').write_text(MODULE)
    start = str(time.time() + 6)
    for process in [subprocess.Popen([sys.executable, 'summing.py', str(i), start], cwd=tmp_path) for i in range(4)]:
        assert process.wait() == 0
    check = ('from summing import *; print([float(total(np.arange(5, dtype=k))) for k in KINDS]); '
             'print(sum(total.stats.cache_hits.values()))')
    done = subprocess.run([sys.executable, '-c', check], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == f'{[10.]*8}\n8\n', done.stdout + done.stderr # all were kept
