"Whatever is put into a powder file, `read_powder` gives a `PowderPattern` that makes sense or a `PowderError` that names the file."
import gzip, io, struct, warnings, zipfile
import numpy as np, pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from msdn_nb.measured import (LONGEST, SHORTEST, check_powder, looks_like_powder, powder_format, read_powder,
                              strip_alpha2, tidy_powder, wavelength_angstrom)
from msdn_nb.powder import PowderError, PowderPattern

X = np.round(np.arange(10, 60, .2), 3)
Y = np.round(20 + 500*np.exp(-(X - 30)**2/.1) + 300*np.exp(-(X - 41)**2/.1) + 5*np.sin(40*X))
bounded = settings(max_examples=60, deadline=None, derandomize=True,
                   suppress_health_check=[HealthCheck.function_scoped_fixture])
PIECES = [b'', b'\0', b'nan', b'-1', b'1e308', b'inf', b';', b',', b'\t', b'<', b'>', b'</counts>', b'"', b'\n', b'\r',
          b'loop_', b'BANK 1 9 9 CONST 1 1', b'PK\3\4', b'RAW4.00', b'*RAS_INT_START', b'\xff\xfe', b'\xef\xbb\xbf',
          b'999999999999', b'0', b'_START=', b'data_x\n']

def zipped(**members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w') as archive:
        for name, text in members.items():
            archive.writestr(name.replace('__', '/').replace('_xml', '.xml').replace('_txt', '.txt'), text)
    return out.getvalue()

rows = lambda sep=' ', end='\n': end.join(f'{a:.3f}{sep}{b:.0f}' for a, b in zip(X, Y))
counts = ' '.join(f'{v:.0f}' for v in Y)
n, floats = len(X), Y.astype('<f4').tobytes()
GOOD = {'xy': rows().encode(), 'csv': ('2theta,counts\r\n' + rows(',', '\r\n')).encode('utf-16'),
        'comma': rows(';').replace('.', ',').encode(), 'gz': gzip.compress(rows().encode()),
        'xrdml': f'<?xml version="1.0"?><xrdMeasurements xmlns="a"><xrdMeasurement><usedWavelength><kAlpha1>1.5406</kAlpha1></usedWavelength><scan scanAxis="Gonio"><dataPoints><positions axis="2Theta"><startPosition>{X[0]}</startPosition><endPosition>{X[-1]}</endPosition></positions><counts>{counts}</counts></dataPoints></scan></xrdMeasurement></xrdMeasurements>'.encode(),
        'ras': ('*RAS_DATA_START\n*RAS_HEADER_START\n*HW_XG_WAVE_LENGTH_ALPHA1 "1.5406"\n*MEAS_SCAN_AXIS_X "TwoTheta"\n*RAS_HEADER_END\n*RAS_INT_START\n'
                + rows() + '\n*RAS_INT_END\n').encode(),
        'gsa': ('title\nBANK 1 %d 9 CONST %.1f 20 0 0 FXYE\n' % (n, 100*X[0])
                + '\n'.join(f'{100*a} {b} 1' for a, b in zip(X, Y))).encode(),
        'uxd': f'_FILEVERSION=2\n_WL1=1.5406\n_START={X[0]}\n_STEPSIZE=0.2\n_COUNTS\n{counts}\n'.encode(),
        'cif': ('data_a\n_diffrn_radiation_wavelength 1.5406\nloop_\n_pd_meas_2theta_scan\n_pd_meas_counts_total\n'
                + rows()).encode(),
        'brml': zipped(Experiment0__RawData0_xml='<R><DataRoute><ScanInformation><ScanAxes><ScanAxisInfo AxisId="TwoTheta"/></ScanAxes></ScanInformation>'
                       + ''.join(f'<Datum>1,1,{a},{b}</Datum>' for a, b in zip(X, Y)) + '</DataRoute></R>'),
        'rasx': zipped(Data0__Profile0_txt='\ufeff' + rows('\t')),
        'raw1': b'RAW ' + struct.pack('<IffIIf44xff72xI', n, 1, .2, 0, 0, X[0], 1.5406, 0, 0) + floats,
        'raw3': b'RAW1.01' + struct.pack('<5xI608xd80x', 1, 1.5406)
        + struct.pack('<II8xd152xd8xf60xI44x', 304, n, X[0], .2, 1., 0) + floats,
        'raw4': b'RAW4.00' + bytes(54) + struct.pack('<I28x24s16xddI44xII16x', 0, b'Locked Coupled', X[0], .2, n, 4, 0)
        + floats}

def pattern_or_error(path, wavelength=1.5406):
    "Read `path`; the outcome must be a usable pattern or an error that names the file and a remedy"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert looks_like_powder(path) in (True, False)
        try: found = read_powder(path, wavelength)
        except PowderError as e:
            assert path.name in str(e) and ';' in str(e), e
            return None
        assert isinstance(found, PowderPattern) and len(found.two_theta) >= 200 and np.ptp(found.intensity) > 0
        assert (np.isfinite(found.intensity).all() and (found.intensity >= 0).all() and found.two_theta[0] > 0
                and found.two_theta[-1] < 180)
        try: assert all(isinstance(w, str) for w in check_powder(found))
        except PowderError as e: assert ';' in str(e)
    return found

@pytest.mark.parametrize('name', GOOD)
def test_good(tmp_path, name):
    path = tmp_path/f'peaks.{name}'
    path.write_bytes(GOOD[name])
    found = pattern_or_error(path)
    np.testing.assert_allclose(found.two_theta, X, atol=2e-4)
    np.testing.assert_array_equal(found.intensity, Y)
    assert looks_like_powder(path) and found.wavelength == 1.5406

@pytest.mark.parametrize('name', GOOD)
@bounded
@given(data=st.data())
def test_mutated(tmp_path, name, data):
    content = GOOD[name]
    for _ in range(data.draw(st.integers(1, 4))):
        i = data.draw(st.integers(0, len(content))); j = data.draw(st.integers(i, min(len(content), i + 60)))
        content = content[:i] + data.draw(st.one_of(st.sampled_from(PIECES), st.just(content[i:j]*2),
                                                    st.binary(max_size=8))) + content[j:]
    (tmp_path/f'a.{name}').write_bytes(content)
    pattern_or_error(tmp_path/f'a.{name}')

@pytest.mark.parametrize('name', ['xrdml', 'brml', 'rasx', 'gsa', 'raw1', 'raw3', 'raw4', 'gz', 'cif', 'uxd'])
def test_cut_short(tmp_path, name):
    "Half a file is refused, or read as what there is of it; it never comes back as the whole"
    for share in (.02, .3, .6, .95):
        path = tmp_path/f'a.{name}'
        path.write_bytes(GOOD[name][:int(share*len(GOOD[name]))])
        found = pattern_or_error(path)
        assert found is None or len(found.two_theta) < n

@bounded
@given(content=st.one_of(st.binary(max_size=400), st.text(max_size=400).map(lambda t: t.encode('utf-8', 'replace'))),
       suffix=st.sampled_from(['xy', 'raw', 'cif', 'xrdml', 'brml', 'gsa', '']))
def test_garbage(tmp_path, content, suffix):
    (tmp_path/f'a.{suffix}').write_bytes(content)
    assert pattern_or_error(tmp_path/f'a.{suffix}') is None

@bounded
@given(head=st.sampled_from([b'RAW ', b'RAW2', b'RAW1.01', b'RAW4.00', b'PK\3\4', b'\x1f\x8b',
                             b'data_a\nloop_\n_pd_meas_counts_total\n', b'<xrdMeasurements>', b'BANK 1 9 9 CONST ',
                             b'*RAS_INT_START\n', b'_FILEVERSION=2\n']), content=st.binary(max_size=1500))
def test_garbage_with_a_good_head(tmp_path, head, content):
    (tmp_path/'a').write_bytes(head + content)
    assert pattern_or_error(tmp_path/'a') is None

@bounded
@given(st.lists(st.tuples(st.floats(allow_nan=True, allow_infinity=True),
                          st.floats(allow_nan=True, allow_infinity=True)), max_size=300),
       st.one_of(st.floats(), st.text(max_size=8), st.none()))
def test_numbers(pairs, wavelength):
    try: assert isinstance(tidy_powder([a for a, _ in pairs], [b for _, b in pairs], wavelength), PowderPattern)
    except PowderError: pass

@bounded
@given(st.one_of(st.text(max_size=12), st.floats(), st.integers(), st.none(), st.binary(max_size=3),
                 st.lists(st.integers(), max_size=2)))
def test_wavelengths(value):
    try: assert SHORTEST <= wavelength_angstrom(value) <= LONGEST
    except PowderError as e: assert ';' in str(e)

def test_odd_places(tmp_path):
    for path, why in ((tmp_path, 'not a file'), (tmp_path/'none.xy', 'no such file')):
        with pytest.raises(PowderError, match=why): read_powder(path, 'Cu')
    for path in (None, 3, object()):
        with pytest.raises(PowderError): read_powder(path, 'Cu')
    (tmp_path/'long.xy').write_text('# a comment\n'*200_000 + rows())
    assert len(read_powder(tmp_path/'long.xy', 'Cu').two_theta) == n
    (tmp_path/'bomb.xrdml').write_text('<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><xrdMeasurements>&c;</xrdMeasurements>')
    with pytest.raises(PowderError, match='document type'): read_powder(tmp_path/'bomb.xrdml')
    (tmp_path/'other.zip').write_bytes(zipped(a_txt='1 2'))
    with pytest.raises(PowderError, match='zip archive'): read_powder(tmp_path/'other.zip')

def test_strip_keeps_the_sum():
    "A doublet of any ratio loses that share, wherever its lines stand"
    x = np.arange(20, 140, .02)
    for ratio in (.1, .3, .5):
        peak = lambda at: np.exp(-(x - at)**2/.02)
        y = sum(peak(at) + ratio*peak(2*np.degrees(np.arcsin(np.sin(np.radians(at/2))*1.544427/1.540593)))
                for at in (30., 31.1, 77., 120.))
        left = strip_alpha2(tidy_powder(x, 1e4*y, 'Cu'), ratio).intensity
        np.testing.assert_allclose(left.sum()*(1 + ratio), 1e4*y.sum(), rtol=.01)
