"""The recipe of docs/raw_data.md runs on a file in the layout of the vendor."""

import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sodiumprep.interfaces.kspace import read_kspace
from sodiumprep.sodium.acquisition import average_repetitions

PAGE = Path(__file__).parents[2] / "docs" / "raw_data.md"
PROTOCOL = """### ASCCONV BEGIN ###
sTXSPEC.asNucleusInfo[0].tNucleus = "23Na"
sRXSPEC.alDwellTime[0] = 100000
sKSpace.lBaseResolution = 16
sSliceArray.asSlice[0].dReadoutFOV = 160.0
alTR[0] = 120000
alTE[0] = 300
adFlipAngleDegree[0] = 90.0
sProtConsistencyInfo.flNominalB0 = 2.89
### ASCCONV END ###
"""


@pytest.fixture(scope="module")
def twixtools():
    return pytest.importorskip("twixtools")


def header(dwell_time=100000):
    """Return the bytes of a measurement header with one buffer."""
    text = PROTOCOL.replace("100000", str(dwell_time)).encode()
    buffer = b"MeasYaps\0" + struct.pack("<I", len(text)) + text + b"\0" * 48
    return np.frombuffer(struct.pack("<II", 8 + len(buffer), 1) + buffer, "S1")


def block(twixtools, samples, blob, **counters):
    from scipy.spatial.transform import Rotation

    made = twixtools.mdb.Mdb_local(samples)
    for name, value in counters.items():
        setattr(made.mdh.Counter, name, value)
    read, phase, along = blob.geometry.directions
    x, y, z, w = Rotation.from_matrix(np.stack([phase, read, along], axis=1)).as_quat()
    made.mdh.SliceData.Quaternion[:] = [w, x, y, z]
    place = made.mdh.SliceData.SlicePos
    place.Sag, place.Cor, place.Tra = blob.geometry.position
    return made


def write_twix(twixtools, path, blob, noise):
    """Write an adjustment scan with noise and a measurement of two repetitions."""
    adjustment = block(twixtools, noise, blob)
    adjustment.add_flag("NOISEADJSCAN")
    readouts = [
        block(twixtools, (1 + 2 * repetition) * blob.samples[:, line], blob,
              Rep=repetition, Lin=line)
        for repetition in range(2) for line in range(blob.samples.shape[1])
    ]  # fmt: skip
    scans = [{"hdr_str": header(50000), "mdb": [adjustment]},
             {"hdr_str": header(), "mdb": readouts}]  # fmt: skip
    twixtools.write_twix(scans, path)


@pytest.mark.slow
def test_the_recipe_for_twixtools_writes_what_was_measured(
    twixtools, oblique, make_blob, tmp_path
):
    handedness = -1  # read, phase, slice: phase, read, slice is a rotation
    blob = make_blob(oblique(16, handedness), [-9.0, 13.0, 41.0], n_spokes=12)
    noise = np.linspace(0, 1, 20)[None].astype(np.complex64)
    write_twix(twixtools, str(tmp_path / "meas.dat"), blob, noise)
    np.save(tmp_path / "k.npy", blob.trajectory)
    recipe = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    (tmp_path / "recipe.py").write_text(recipe)
    command = [sys.executable, "recipe.py", "meas.dat", "out.h5", "k.npy"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    read = read_kspace(tmp_path / "out.h5")
    np.testing.assert_allclose(average_repetitions(read).samples, 2 * blob.samples, rtol=1e-5)
    np.testing.assert_allclose(read.geometry.affine, blob.geometry.affine, atol=1e-3)
    np.testing.assert_array_equal(read.noise, noise)
    assert (read.dwell_time, read.noise_dwell_time) == pytest.approx((1e-4, 5e-5))
    assert (read.echo_time, read.repetition_time) == pytest.approx((3e-4, 0.12))
