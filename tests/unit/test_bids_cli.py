"""Every option reaches the settings; every misuse is one line and exit code 2."""

import errno
import json
import os
import subprocess
import sys

import pytest

from sodiumprep.bids_app import cli
from sodiumprep.bids_app.cli import main, parse_settings
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.settings import DEFAULT_SEED, FEWEST_DRAWS
from sodiumprep.sodium import monte_carlo

VIALS = [
    {
        "Name": "saline",
        "SodiumConcentration": 50,
        "T1": 0.053,
        "T2starLong": 0.053,
        "ShortFraction": 0,
    }
]
RELAXATION = {"GM": {"T1": 0.037, "T2starLong": 0.026, "T2starShort": 0.004, "ShortFraction": 0.6}}


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "dataset_description.json").write_text('{"Name": "a", "BIDSVersion": "1.10.0"}')
    return folder


@pytest.fixture
def parse(raw, tmp_path):
    def parsed(*options):
        work = [] if {"-w", "--work-dir"} & set(options) else ["-w", str(tmp_path / "work")]
        return parse_settings([str(raw), str(tmp_path / "out"), "participant", *work, *options])

    return parsed


@pytest.fixture
def written(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


def test_a_work_folder_that_cannot_be_written_is_refused_where_it_is_needed(parse, tmp_path):
    (tmp_path / "file").write_text("in the way")
    work = ("-w", str(tmp_path / "file" / "work"))
    with pytest.raises(UserError, match="file/work cannot be written"):
        parse(*work)
    assert parse(*work, "--dry-run").dry_run


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        (["--participant-label", "01", "sub-02", "01"], "participants", ("01", "02")),
        (["--session-label", "ses-1", "2"], "sessions", ("1", "2")),
        (["--skip-bids-validation"], "skip_bids_validation", True),
        (["--nprocs", "3"], "nprocs", 3),
        (["--omp-nthreads", "2"], "omp_nthreads", 2),
        (["--mem", "8GB"], "memory_gb", 8.0),
        (["--mem", "8000"], "memory_gb", 8.0),
        (["--mem", "1.5T"], "memory_gb", 1500.0),
        (["--clean-workdir"], "clean_workdir", True),
        (["--random-seed", "5"], "random_seed", 5),
        (["--anat-only"], "anat_only", True),
        (["--reports-only"], "reports_only", True),
        (["--no-viewer"], "no_viewer", True),
        (["--boilerplate-only"], "boilerplate_only", True),
        (["--dry-run"], "dry_run", True),
        (["--write-graph"], "write_graph", True),
        (["--stop-on-first-crash"], "stop_on_first_crash", True),
        (["--sloppy"], "sloppy", True),
        (["-vv"], "verbose", 2),
        (["--kspace-filter", "hamming"], "kspace_filter", "hamming"),
        (["--pvc", "labbe"], "pvc", ("gtm", "labbe")),
        (["--pvc", "labbe", "gtm", "labbe"], "pvc", ("gtm", "labbe")),
        (["--pvc-feed", "labbe"], "pvc_feed", "labbe"),
        (["--sensitivity"], "sensitivity", True),
        (["--monte-carlo", "200"], "monte_carlo", 200),
        (["--psf-fwhm", "6"], "psf_fwhm", (6.0, 6.0, 6.0)),
        (["--psf-fwhm", "5", "6", "7"], "psf_fwhm", (5.0, 6.0, 7.0)),
        (["--reference", "csf"], "reference", "csf"),
        (["--force"], "force", True),
        (["--reference", "vitreous"], "reference", "vitreous"),
        (
            ["--reference", "vitreous", "--reference-concentration", "113", "14"],
            "reference_concentration",
            (113.0, 14.0),
        ),
        (
            ["--reference", "csf", "--reference-concentration", "140"],
            "reference_concentration",
            (140.0,),
        ),
        (["--recon", "cg"], "recon", "cg"),
        (["--coil-sensitivities", "espirit"], "coil_sensitivities", "espirit"),
        (["--gradient-delay", "2", "0", "-1"], "gradient_delay", (2e-6, 0.0, -1e-6)),
        (["--gradient-delay", "estimate"], "estimate_delay", True),
        (["--low-mem"], "low_mem", True),
        (["--resource-monitor"], "resource_monitor", True),
        (
            ["--subject-anatomical-reference", "first-lex"],
            "subject_anatomical_reference",
            "first-lex",
        ),
        (
            ["--subject-anatomical-reference", "unbiased"],
            "subject_anatomical_reference",
            "unbiased",
        ),
        (["--lesion-shells", "4", "7.5"], "lesion_shells", (4.0, 7.5)),
        (["--lesion-tables", "shells", "lesions"], "lesion_tables", ("shells", "lesions")),
        (["--na2anat-init", "header"], "na2anat_init", "header"),
        (["--na2anat-dof", "12"], "na2anat_dof", 12),
    ],
)
def test_an_option_reaches_its_setting(parse, options, field, value):
    assert getattr(parse(*options), field) == value
    assert getattr(parse(), field) != value


def test_fewer_draws_than_the_science_takes_are_refused_with_the_bound(raw, tmp_path, capsys):
    assert FEWEST_DRAWS == monte_carlo.FEWEST_DRAWS
    assert main([str(raw), str(tmp_path / "out"), "participant", "--monte-carlo", "50"]) == 2
    assert "from 100 on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "told"),
    [(["5", "5"], "rising outer distances"), (["10", "5"], "--lesion-shells 10 5"),
     (["0"], "mm above 0"), (["-3"], "-3"), (["near"], "'near' is no distance")],
)  # fmt: skip
def test_shells_that_do_not_rise_are_refused(parse, given, told):
    with pytest.raises(UserError, match=told):
        parse("--lesion-shells", *given)


def test_no_correction_is_a_row_that_is_always_there(parse):
    assert parse("--pvc", "none").pvc == ("gtm",)


def test_folders_of_options_become_absolute(parse, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = parse("-w", "scratch", "--bids-database-dir", "index")
    assert settings.work_dir == tmp_path / "scratch"
    assert settings.bids_database_dir == tmp_path / "index"


def test_defaults_are_reproducible_and_choose_the_reference_later(parse):
    settings = parse()
    assert (settings.omp_nthreads, settings.random_seed) == (1, DEFAULT_SEED)
    assert settings.reference is None
    assert settings.nprocs >= 1


def test_derivatives_keep_names_and_order(parse, tmp_path):
    for name in ("manual", "anat"):
        (tmp_path / name).mkdir()
    settings = parse("-d", f"mine={tmp_path / 'manual'}", "--derivatives", str(tmp_path / "anat"))
    assert list(settings.derivatives.items()) == [
        ("mine", tmp_path / "manual"),
        ("anat", tmp_path / "anat"),
    ]


def test_two_derivatives_folders_of_one_name_are_refused(parse, tmp_path):
    for name in ("a/anat", "b/anat"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(UserError, match="anat already stands for"):
        parse("-d", str(tmp_path / "a/anat"), str(tmp_path / "b/anat"))


def test_files_of_options_are_checked_and_kept(parse, written):
    vials, relaxation = written("vials.json", VIALS), written("relaxation.json", RELAXATION)
    settings = parse("--vials", vials, "--relaxation", relaxation)
    assert str(settings.vials_file) == vials
    assert str(settings.relaxation_file) == relaxation


def test_a_filter_file_narrows_the_query(parse, written):
    path = written("filter.json", {"sodium": {"run": 2}})
    assert parse("--bids-filter-file", path).bids_filters == {"sodium": {"run": 2}}


@pytest.mark.parametrize("text", ["plugin: SLURM\n", '{"plugin": "SLURM"}'])
def test_a_plugin_file_may_be_yaml_or_json(parse, written, text):
    settings = parse("--nipype-plugin-file", written("plugin.yml", text))
    assert settings.nipype_plugin == {"plugin": "SLURM", "plugin_args": {}}


def test_underscored_spellings_work(parse):
    assert parse("--participant_label", "01", "--omp_nthreads=2").participants == ("01",)
    assert parse("--participant_label", "01", "--omp_nthreads=2").omp_nthreads == 2


def test_a_configuration_file_gives_defaults_that_the_command_line_overrides(parse, written):
    text = 'nprocs = 3\nsloppy = true\nwrite_graph = false\npsf-fwhm = [5, 6, 7]\nmem = "2GB"\n'
    path = written("config.toml", text)
    settings = parse("--config-file", path, "--nprocs", "2")
    assert (settings.nprocs, settings.sloppy, settings.write_graph) == (2, True, False)
    assert (settings.psf_fwhm, settings.memory_gb) == ((5.0, 6.0, 7.0), 2.0)


@pytest.mark.parametrize("text", ["nproc = 3", "nprocs = 'many'", "nprocs =", "version = true"])
def test_a_wrong_configuration_file_is_named(parse, written, text):
    with pytest.raises(UserError, match=r"config\.toml"):
        parse("--config-file", written("config.toml", text))


@pytest.mark.parametrize(
    "options",
    [
        ["--bogus"],
        ["--participant-lab", "01"],
        ["--participant-label", "../01"],
        ["--nprocs", "0"],
        ["--nprocs", "two"],
        ["--omp-nthreads", "-1"],
        ["--random-seed", "-1"],
        ["--monte-carlo", "99"],
        ["--monte-carlo", "-100"],
        ["--mem", "lots"],
        ["--mem", "0"],
        ["--psf-fwhm", "6", "6"],
        ["--psf-fwhm", "-6"],
        ["--psf-fwhm", "0.006"],
        ["--reference", "liver"],
        ["--reference-concentration", "140"],
        ["--reference", "vials", "--reference-concentration", "140"],
        ["--reference", "csf", "--reference-concentration", "0.14"],
        ["--reference", "csf", "--reference-concentration", "nan"],
        ["--reference", "csf", "--reference-concentration", "140", "-5"],
        ["--reference", "csf", "--reference-concentration", "140", "90"],
        ["--reference", "csf", "--reference-concentration", "140", "5", "5"],
        ["--kspace-filter", "hann"],
        ["--vials", "gone.json"],
        ["--relaxation", "gone.json"],
        ["--bids-filter-file", "gone.json"],
        ["--nipype-plugin-file", "gone.yml"],
        ["--config-file", "gone.toml"],
        ["-d", "anat=gone"],
        ["--recon", "grappa"],
        ["--subject-anatomical-reference", "last"],
        ["--recon", "tv", "--kspace-filter", "hamming"],
        ["--gradient-delay", "2", "0"],
        ["--gradient-delay", "2", "0", "500"],
        ["--gradient-delay", "2", "0", "late"],
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(raw, tmp_path, capsys, options):
    assert main([str(raw), str(tmp_path / "out"), "participant", *options]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("sodiumprep: error: ")


@pytest.mark.parametrize("content", ["[]", '{"t9w": {}}', '{"sodium": 3}', "{"])
def test_a_wrong_filter_file_is_named(parse, written, content):
    with pytest.raises(UserError, match=r"filter\.json"):
        parse("--bids-filter-file", written("filter.json", content))


def test_bounds_of_a_plugin_file_are_those_of_the_run(parse, written):
    path = written("plugin.yml", "plugin: MultiProc\nplugin_args: {n_procs: 7, memory_gb: 5}\n")
    settings = parse("--nipype-plugin-file", path, "--nprocs", "2", "--mem", "9GB")
    assert (settings.nprocs, settings.memory_gb) == (7, 5)
    slurm = written("slurm.yml", "plugin: SLURM\nplugin_args: {n_procs: 7}\n")
    assert parse("--nipype-plugin-file", slurm, "--nprocs", "2").nprocs == 2


@pytest.mark.parametrize("bound", ["n_procs: four", "n_procs: 0", "n_procs: 1.5", "memory_gb: -1"])
def test_a_wrong_bound_in_a_plugin_file_is_named(parse, written, bound):
    text = f"plugin: MultiProc\nplugin_args: {{{bound}}}\n"
    with pytest.raises(UserError, match=f"plugin.yml: {bound.partition(':')[0]} is"):
        parse("--nipype-plugin-file", written("plugin.yml", text))


@pytest.mark.parametrize("content", ["", "plugin_args: {}", "plugin: A\nplugin_args: 3", "{"])
def test_a_wrong_plugin_file_is_named(parse, written, content):
    with pytest.raises(UserError, match=r"plugin\.yml"):
        parse("--nipype-plugin-file", written("plugin.yml", content))


@pytest.mark.parametrize("inside", ["", "out", "sub-01", "derivatives", "code/derivatives/a"])
def test_an_output_folder_in_the_dataset_is_refused(raw, inside):
    with pytest.raises(UserError, match="OUT_DIR"):
        parse_settings([str(raw), str(raw / inside), "participant"])


def test_an_output_folder_under_derivatives_is_accepted(raw, tmp_path):
    out = raw / "derivatives" / "sodiumprep"
    options = [str(raw), str(out), "participant", "-w", str(tmp_path / "work")]
    assert parse_settings(options).out_dir == out


def test_a_link_into_the_dataset_is_seen_through(raw, tmp_path):
    (tmp_path / "link").symlink_to(raw)
    with pytest.raises(UserError, match="OUT_DIR"):
        parse_settings([str(raw), str(tmp_path / "link" / "out"), "participant"])


def test_an_output_folder_that_is_a_file_is_refused(raw, written):
    with pytest.raises(UserError, match="is a file"):
        parse_settings([str(raw), written("out", ""), "participant"])


def test_a_work_folder_in_the_dataset_is_refused(raw, tmp_path):
    with pytest.raises(UserError, match="work folder"):
        parse_settings([str(raw), str(tmp_path / "o"), "participant", "-w", str(raw / "work")])


def test_a_missing_dataset_is_refused(tmp_path):
    with pytest.raises(UserError, match="BIDS_DIR .* does not exist"):
        parse_settings([str(tmp_path / "gone"), str(tmp_path / "out"), "participant"])


def test_a_dataset_without_description_is_refused(tmp_path):
    (tmp_path / "raw").mkdir()
    with pytest.raises(UserError, match="has no dataset_description"):
        parse_settings([str(tmp_path / "raw"), str(tmp_path / "out"), "participant"])


def test_the_group_level_needs_no_raw_data(tmp_path):
    (tmp_path / "out").mkdir()
    settings = parse_settings(
        [str(tmp_path / "gone"), str(tmp_path / "out"), "group", "-w", str(tmp_path / "w")]
    )
    assert settings.level == "group"


def test_the_group_level_needs_results(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        parse_settings([str(tmp_path / "raw"), str(tmp_path / "gone"), "group"])


def test_threads_and_seed_are_set_before_anything_heavy_is_imported(parse, monkeypatch):
    environment = parse("--omp-nthreads", "2", "--random-seed", "7").environment()
    assert environment["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] == "2"
    assert environment["OMP_NUM_THREADS"] == environment["OPENBLAS_NUM_THREADS"] == "2"
    assert environment["ANTS_RANDOM_SEED"] == "7"
    assert environment["NIPYPE_NO_ET"] == environment["NO_ET"] == "1"


def test_the_exit_code_of_the_level_is_passed_on(raw, tmp_path, monkeypatch):
    environment = dict(os.environ)
    monkeypatch.setattr(cli, "_run", lambda settings: 1)
    monkeypatch.setattr(cli, "validate_dataset", lambda *_: None)
    assert main([str(raw), str(tmp_path / "o"), "participant", "-w", str(tmp_path / "w")]) == 1
    for name in set(os.environ) - set(environment):
        monkeypatch.delenv(name)


def test_help_is_quick_and_names_every_option():
    code = "import sys; from sodiumprep.bids_app.cli import build_parser\n"
    code += "build_parser().format_help()\n"
    code += "print(sorted({'numpy', 'nipype', 'ants', 'bids', 'nibabel'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "[]"
    assert "--participant-label" in cli.build_parser().format_help()


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("sodiumprep 0.")


def test_a_traceback_comes_only_with_verbose(raw, tmp_path, capsys):
    command = [str(raw), str(tmp_path / "o"), "participant", "--vials", "gone.json"]
    main([*command, "-v"])
    assert "Traceback" in capsys.readouterr().err
    main(command)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_folder_that_cannot_be_made_is_told_in_a_line(
    raw, tmp_path, monkeypatch, capsys, number
):
    def refuse(settings):
        raise OSError(number, os.strerror(number), "/out/logs/run-x")

    monkeypatch.setattr(cli, "_run", refuse)
    command = [str(raw), str(tmp_path / "out"), "participant", "-w", str(tmp_path / "work")]
    assert main([*command, "--skip-bids-validation"]) == 2
    told = f"sodiumprep: error: /out/logs/run-x: {os.strerror(number)}\n"
    assert capsys.readouterr().err == told


def test_another_failure_of_the_system_is_not_the_users(raw, tmp_path, monkeypatch):
    def refuse(settings):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(cli, "_run", refuse)
    command = [str(raw), str(tmp_path / "out"), "participant", "-w", str(tmp_path / "work")]
    with pytest.raises(OSError, match="Input/output"):
        main([*command, "--skip-bids-validation"])
