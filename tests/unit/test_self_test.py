"""``sodiumprep --self-test`` says what works, and what does not fails it."""

import json
import re
import subprocess
import sys
from importlib.metadata import requires

import nibabel as nib
import numpy as np
import pytest

from sodiumprep.bids_app import host, self_test
from sodiumprep.bids_app.cli import main
from sodiumprep.bids_app.self_test import (
    BrokenError,
    MissingError,
    check,
    coarsen,
    report,
)


def test_the_command_ends_with_the_code_of_the_self_test(monkeypatch):
    for code in (0, 1):
        monkeypatch.setattr(self_test, "main", lambda code=code: code)
        with pytest.raises(SystemExit) as ended:
            main(["--self-test"])
        assert ended.value.code == code


def test_a_configuration_file_cannot_ask_for_it(tmp_path, capsys):
    path = tmp_path / "config.toml"
    path.write_text("self-test = true\n")
    assert main(["a", "b", "participant", "--config-file", str(path)]) == 2
    assert "self-test has no place" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (BrokenError("no kidneys", "see a doctor"), "FAILED", "no kidneys; to do: see a doctor"),
        (MissingError("no hat"), "absent", "no hat"),
        (OSError("lib.so\nis damaged"), "FAILED", "OSError: lib.so is damaged; to do: install"),
    ],
)
def test_what_goes_wrong_is_one_line(raised, code, said, capsys):
    def function():
        raise raised

    assert check("body", function) == code
    line = capsys.readouterr().out
    assert line.startswith(f"{code:7} body: {said}")
    assert line.count("\n") == 1


def test_one_failure_fails_all_and_what_is_optional_does_not(monkeypatch, capsys):
    for codes, expected in ((["ok", "absent"], 0), (["ok", "FAILED", "ok"], 1)):
        monkeypatch.setattr(self_test, "_check_all", lambda folder, codes=codes: codes)
        assert self_test.main() == expected
    assert "2 ok, 0 absent, 1 FAILED" in capsys.readouterr().out


def test_too_little_memory_is_a_failure(monkeypatch):
    monkeypatch.setattr(host, "memory", lambda: host.Limit(2.0, "cgroup"))
    with pytest.raises(BrokenError, match=r"2.0 GB .*cgroup.* 4 GB; to do: give"):
        self_test.machine()


def test_a_home_that_only_the_table_of_users_tells_is_enough(monkeypatch, tmp_path):
    monkeypatch.delenv("HOME", raising=False)
    assert "home '/" in self_test.temporary_files(tmp_path)


def test_every_package_that_is_needed_is_loaded_and_named_with_its_version(monkeypatch):
    loaded = []
    monkeypatch.setattr(self_test.importlib, "import_module", loaded.append)
    said = self_test.software()
    names = {re.match(r"[\w.-]+", text)[0] for text in requires("sodiumprep") if ";" not in text}
    assert all(f"{name} " in said for name in names)
    assert {"ants", "bids", "yaml", "numpy"} < {*loaded}
    assert len(loaded) == len(names)


@pytest.mark.parametrize(
    ("needs", "said"),
    [(["numpy < 1"], r"numpy is .*to do: install numpy<1"), (["kidneys"], "kidneys is not inst")],
)
def test_a_package_that_does_not_fit_is_named(monkeypatch, needs, said):
    monkeypatch.setattr(self_test, "requires", lambda name: needs)
    with pytest.raises(BrokenError, match=said):
        self_test.software()


def test_an_optional_library_that_is_missing_says_what_it_would_give(monkeypatch):
    monkeypatch.setattr(self_test, "find_spec", lambda name: None)
    for module in self_test.OPTIONAL:
        with pytest.raises(MissingError, match=r"not installed: .* pip install"):
            self_test.optional(module)


def test_the_transform_and_the_embedded_template_pass_here():
    assert "from the direct sum" in self_test.nufft()
    assert "1.8" in self_test.templates()


def test_a_transform_that_is_off_fails(monkeypatch):
    monkeypatch.setattr(self_test, "NUFFT_ERROR", 1e-9)
    with pytest.raises(BrokenError, match="off by"):
        self_test.nufft()


def test_a_coarse_image_keeps_its_mean_and_place(tmp_path):
    path = tmp_path / "sub-01_T1w.nii.gz"
    values = np.random.default_rng(0).random((6, 8, 5), np.float32)
    nib.save(nib.Nifti1Image(values, np.diag([1.0, 1, 1, 1])), path)
    coarsen(path)
    image = nib.load(path)
    assert image.get_fdata()[0, 0, 0] == pytest.approx(values[:2, :2, :2].mean())
    assert image.shape == (3, 4, 2)
    assert image.affine[:3, 3].tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    "page", ["<p>no picture</p>", '<img src="a.png"><script src="https://cdn.example/x.js">']
)
def test_a_report_without_pictures_or_with_parts_from_the_network_fails(tmp_path, page):
    path = tmp_path / "sub-01.html"
    path.write_text(page)
    with pytest.raises(BrokenError, match="parts from the network"):
        report(path)


def test_a_command_that_fails_is_told_with_its_last_words(tmp_path):
    process = self_test._start("cli", tmp_path, "nowhere", "out", "participant")
    with pytest.raises(BrokenError, match=r"ended with 2: .*BIDS_DIR"):
        self_test._finish("sodiumprep", process)


@pytest.mark.slow
def test_this_installation_passes_and_leaves_nothing_behind(tmp_path):
    code = "import sys; from sodiumprep.bids_app.cli import main; sys.exit(main())"
    environment = {"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path), "HOME": "/"}
    done = subprocess.run(
        [sys.executable, "-c", code, "--self-test"],
        capture_output=True, text=True, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    print(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert not any(tmp_path.iterdir())
    assert "FAILED" not in json.dumps(done.stdout.splitlines()[:-1])
