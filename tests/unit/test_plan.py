"""From what was found and what the user wants to plans."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sodiumprep.bids_app.anatomies import Anatomy
from sodiumprep.bids_app.dataset import SubjectJob
from sodiumprep.bids_app.metadata import Protocol, UserError, Vial
from sodiumprep.bids_app.plan.anatomy import plan_anatomy
from sodiumprep.bids_app.plan.sodium import plan_run
from sodiumprep.bids_app.plan.subject import links, workflow_name
from sodiumprep.bids_app.runs import SodiumRun
from sodiumprep.bids_app.settings import LESION_TABLES, Settings
from sodiumprep.interfaces.anatomy_outputs import ANATOMY_FILES
from sodiumprep.interfaces.outputs import NOT_SAVED, SODIUM_FILES, SODIUM_ONLY_FILES
from sodiumprep.sodium.relaxation import relaxation_of
from sodiumprep.workflows.plans import CONTRALATERAL, LESIONS, SHELLS

RAW, OUT = Path("/data/raw"), Path("/data/out")
SETTINGS = Settings(RAW, OUT, Path("/data/work"))
PROTOCOL = Protocol(0.3e-3, 0.12, 1.5707963267948966, 3.0)
SALINE = Vial("saline", 50.0, 0.5, 0.053, None, 0.053, 0.0)
GEL = Vial("saline", 100.0, 1.0, 0.035, 0.004, 0.028, 0.6, temperature=21.0)
ANATOMY = Anatomy(RAW / "sub-01/anat/sub-01_T1w.nii.gz", "T1w")


def run_of(**changes):
    known = {
        "subject": "01", "session": None, "run": None,
        "entities": {"sub": "01", "acq": "23Na"},
        "source": RAW / "sourcedata/sub-01/anat/sub-01_acq-23Na_PDw.h5", "is_kspace": True,
        "phase": None, "protocol": PROTOCOL,
    }  # fmt: skip
    return SodiumRun(**{**known, **changes})


WITH_VIALS = {"vials": (SALINE, GEL), "vial_labels": Path("/d/labels.nii.gz"),
              "vial_space": "T1w"}  # fmt: skip


def plan(run, settings=SETTINGS, anatomy=ANATOMY):
    return plan_run(SubjectJob("01", run.session, anatomy, (run,)), run, settings)


def warnings_of(planned):
    return " ".join(planned.provenance["InputWarnings"])


@pytest.mark.parametrize("wanted", [None, "vials"])
def test_vials_with_labels_calibrate(wanted):
    planned = plan(run_of(**WITH_VIALS), replace(SETTINGS, reference=wanted))
    assert planned.reference == "vials"
    assert planned.regions["vial_labels"] == "/d/labels.nii.gz"
    assert planned.regions["vial_space"] == "T1w"
    assert warnings_of(planned) == ""


@pytest.mark.parametrize(
    ("wanted", "told"),
    [("csf", "CSF at an assumed 145 mmol/L"), ("vitreous", "humour at an assumed 140 mmol/L")],
)
def test_fluid_calibrates_on_request_and_the_vials_are_compared_with_it(wanted, told):
    planned = plan(run_of(**WITH_VIALS), replace(SETTINGS, reference=wanted))
    assert planned.reference == wanted
    assert len(planned.vials) == 2
    assert planned.regions["vial_names"] == ["1 saline", "2 saline"]
    assert told in warnings_of(planned)


@pytest.mark.parametrize(
    ("given", "assumed"), [((), (140.0, 10.0)), ((113.0,), (113.0, 10.0)), ((113, 14), (113, 14))]
)
def test_the_users_concentration_is_that_of_the_fluid_that_calibrates(given, assumed):
    own = replace(SETTINGS, reference="vitreous", reference_concentration=given)
    planned = plan(run_of(), own)
    assert planned.assumed == {"csf": (145.0, 5.0), "vitreous": assumed}
    assert f"assumed {assumed[0]:g} mmol/L" in warnings_of(planned)


def test_fluid_calibrates_where_there_are_no_vials_and_this_is_said():
    planned = plan(run_of())
    assert planned.reference == "csf"
    assert "assumed 145 mmol/L" in warnings_of(planned)


@pytest.mark.parametrize("wanted", [None, "vials"])
def test_vials_without_labels_are_searched(wanted):
    run = run_of(vials=(SALINE, GEL), vials_direction="-x")
    planned = plan(run, replace(SETTINGS, reference=wanted))
    assert planned.reference == "vials"
    assert [vial["name"] for vial in planned.vials] == ["1 saline", "2 saline"]
    assert planned.vial_search == {"direction": "-x", "required": wanted == "vials"}
    assert "vial_labels" not in planned.regions
    assert warnings_of(planned) == ""


def test_vials_that_are_not_listed_are_searched_for_the_report():
    planned = plan(run_of())
    assert planned.vial_search == {"direction": "", "required": False}
    assert planned.vials == ()


@pytest.mark.parametrize(
    ("found", "wanted"), [(WITH_VIALS, None), ({"vials": (SALINE, GEL)}, "csf")]
)
def test_nothing_is_searched_where_labels_are_given_or_fluid_is_wanted(found, wanted):
    assert plan(run_of(**found), replace(SETTINGS, reference=wanted)).vial_search is None


def test_vials_that_are_asked_for_and_not_listed_are_an_error():
    with pytest.raises(UserError, match=r"PDw.h5: CalibrationVials.*--reference is vials"):
        plan(run_of(), replace(SETTINGS, reference="vials"))


@pytest.mark.parametrize("wanted", [None, "vials"])
def test_vials_of_one_level_are_refused_by_file_and_key(wanted):
    one = {**WITH_VIALS, "vials": (SALINE, replace(GEL, concentration=SALINE.concentration))}
    said = r"acq-23Na_PDw.h5: CalibrationVials: SodiumConcentration: 1 distinct"
    with pytest.raises(UserError, match=said):
        plan(run_of(**one), replace(SETTINGS, reference=wanted))
    assert plan(run_of(**one), replace(SETTINGS, reference="csf")).reference == "csf"


def test_force_reaches_the_plan():
    assert plan(run_of(**WITH_VIALS), replace(SETTINGS, force=True)).force
    assert not plan(run_of(**WITH_VIALS)).force


def test_vials_of_one_name_stay_apart_and_in_the_order_of_their_labels():
    planned = plan(run_of(**WITH_VIALS))
    assert planned.regions["vial_names"] == ["1 saline", "2 saline"]
    assert [v["name"] for v in planned.vials] == ["1 saline", "2 saline"]
    assert planned.tissues["2 saline"]["t2_short"] == 0.004
    assert planned.tissues["1 saline"]["short_fraction"] == 0
    assert planned.vials[1]["temperature"] == 21.0


def relaxation_file(tmp_path, content):
    path = tmp_path / "relaxation.json"
    path.write_text(json.dumps(content))
    return replace(SETTINGS, relaxation_file=path)


OWN = {"T1": 0.04, "T2starShort": 0.003, "T2starLong": 0.02, "ShortFraction": 0.5}
EXACT = {f"{key}Uncertainty": 0.0 for key in OWN}


def test_constants_come_from_the_table():
    planned = plan(run_of())
    assert planned.tissues["GM"]["t2_long"] == relaxation_of("GM", 3.0).t2_long
    assert set(planned.tissues) == {"GM", "WM", "CSF", "muscle", "vitreous"}
    assert planned.tissues["vitreous"]["u_t1"] == 2 * planned.tissues["CSF"]["u_t1"]
    assert set(planned.kernel_tissues) == {"GM", "WM", "CSF", "muscle"}  # it has that of CSF


def test_the_users_constants_replace_the_tables_and_say_so(tmp_path):
    planned = plan(run_of(), relaxation_file(tmp_path, {"GM": {**OWN, "T1Uncertainty": 0.004}}))
    grey = planned.tissues["GM"]
    assert (grey["t1"], grey["t2_short"], grey["short_fraction"]) == (0.04, 0.003, 0.5)
    assert grey["u_t1"] == 0.004
    assert grey["u_t2_long"] == relaxation_of("GM", 3.0).u_t2_long
    assert grey["source"].startswith("given by the user")
    assert planned.tissues["WM"]["t1"] == 0.037


def test_the_users_constants_allow_any_field_strength(tmp_path):
    own = OWN | EXACT
    fluid = {**EXACT, "T1": 0.06, "T2starLong": 0.06, "ShortFraction": 0}
    content = {"GM": own, "WM": own, "CSF": fluid, "muscle": own}
    run = run_of(protocol=replace(PROTOCOL, field_strength=1.5))
    tissues = plan(run, relaxation_file(tmp_path, content)).tissues
    assert tissues["CSF"]["t2_long"] == 0.06
    assert tissues["GM"]["t1"] == 0.04


def test_rows_of_the_users_file_that_name_nothing_are_said(tmp_path):
    content = {name: {"T1": 0.04} for name in ("GM", "saline", "tumour")}
    notes = plan(run_of(**WITH_VIALS), relaxation_file(tmp_path, content)).provenance
    (said,) = [text for text in notes["InputWarnings"] if "relaxation.json" in text]
    assert said == "relaxation.json: tumour: no tissue, vial or lesion of this run: not used"


def test_a_vial_takes_the_constants_of_its_row(tmp_path):
    content = {"saline": {"T1": 0.05, "T1Uncertainty": 0.001}}
    tissues = plan(run_of(**WITH_VIALS), relaxation_file(tmp_path, content)).tissues
    assert {tissues[name]["t1"] for name in ("1 saline", "2 saline")} == {0.05}
    assert tissues["2 saline"]["u_t1"] == 0.001
    assert tissues["2 saline"]["t2_short"] == 0.004


@pytest.mark.parametrize("field", [1.5, 9.4, None])
def test_a_field_strength_without_constants_names_file_key_and_option(field):
    with pytest.raises(UserError, match=r"PDw.h5: MagneticFieldStrength: .*--relaxation"):
        plan(run_of(protocol=replace(PROTOCOL, field_strength=field)))


def test_lesions_have_tables_with_their_paths_and_sources():
    anatomy = replace(ANATOMY, lesions={"core": RAW / "core.nii.gz", "edema": RAW / "b.nii.gz"})
    asked = replace(SETTINGS, min_coverage=0.3, lesion_tables=LESION_TABLES)
    tables = plan(run_of(), asked, anatomy).surroundings
    assert tables.classes == ("core", "edema")
    assert (tables.edges, tables.least_coverage) == ((5.0, 10.0, 20.0), 0.3)
    names = {key: Path(path).name for key, path in tables.outputs.items()}
    begin = "sub-01_acq-23Na_"
    assert names == {
        "contralateral": f"{begin}seg-contralateral_TSC.tsv",
        "contralateral_labels": f"{begin}space-T1w_seg-contralateral_dseg.nii.gz",
        "contralateral_table": f"{begin}space-T1w_seg-contralateral_dseg.tsv",
        "lesions": f"{begin}seg-lesions_TSC.tsv",
        "shells": f"{begin}seg-shells_TSC.tsv",
        "shells_labels": f"{begin}space-T1w_seg-shells_dseg.nii.gz",
        "shells_table": f"{begin}space-T1w_seg-shells_dseg.tsv",
    }
    sources = tables.provenance["Sources"]
    assert sources[0] == "bids::sub-01/anat/sub-01_desc-preproc_T1w.nii.gz"
    assert sources[1:] == ["bids:raw:core.nii.gz", "bids:raw:b.nii.gz"]
    assert tables.provenance["SpatialReference"] == sources[0]
    assert tables.labels["shells"].endswith("sub-01_acq-23Na_space-T1w_seg-shells_dseg.nii.gz")


def test_tables_of_lesions_have_the_names_that_the_graph_knows():
    assert LESION_TABLES == (CONTRALATERAL, SHELLS, LESIONS)


def test_tables_of_lesions_are_planned_where_there_are_lesions_and_a_wish():
    anatomy = replace(ANATOMY, lesions={"core": RAW / "core.nii.gz"})
    assert plan(run_of(), replace(SETTINGS, lesion_tables=LESION_TABLES)).surroundings is None
    assert plan(run_of(), anatomy=anatomy).surroundings is None
    asked = replace(SETTINGS, lesion_tables=("contralateral",))
    tables = plan(run_of(), asked, anatomy).surroundings
    assert tables.tables == ("contralateral",)
    assert not any("shells" in key for key in tables.outputs)


def test_a_lesion_has_constants_and_becomes_a_region():
    anatomy = replace(ANATOMY, lesions={"core": Path("/d/core.nii.gz")})
    planned = plan(run_of(), anatomy=anatomy)
    assert planned.regions["lesion_files"] == {"core": "/d/core.nii.gz"}
    white = relaxation_of("WM", 3.0)
    assert planned.tissues["core"]["u_t1"] == 2 * white.u_t1


def test_raw_data_take_the_filter_of_the_user():
    planned = plan(run_of(), replace(SETTINGS, kspace_filter="hamming"))
    assert planned.source["kspace_filter"] == "hamming"
    assert planned.is_kspace


def test_raw_data_take_the_users_reconstruction_into_the_names():
    told = replace(SETTINGS, recon="cg", gradient_delay=(1e-6, 0.0, 0.0), low_mem=True)
    planned = plan(run_of(), told)
    assert planned.source["recon"] == "cg"
    assert planned.source["gradient_delay"] == [1e-6, 0.0, 0.0]
    assert planned.source["low_mem"]
    assert planned.outputs["table_file"].endswith("sub-01_acq-23Na_rec-cg_seg-tissue_TSC.tsv")
    assert "rec-" not in plan(run_of()).outputs["table_file"]


@pytest.mark.parametrize("method", ["tv", "agr"])
def test_a_method_that_is_not_linear_stands_beside_the_default_one(method):
    planned = plan(run_of(), replace(SETTINGS, recon=method))
    assert planned.source["recon"] == "gridding"
    assert "rec-" not in planned.outputs["table_file"]
    assert planned.nonlinear["outputs"]["corrected_file"].endswith(
        f"sub-01_acq-23Na_rec-{method}_desc-corrected_TSCmap.nii.gz"
    )
    assert plan(run_of()).nonlinear == {}


def test_an_image_is_not_named_after_a_reconstruction_it_did_not_have():
    run = run_of(source=RAW / "a_PDw.nii.gz", is_kspace=False)
    assert "rec-" not in plan(run, replace(SETTINGS, recon="cg")).outputs["table_file"]


@pytest.mark.parametrize(("nucleus", "scale"), [("23Na", 1.0), ("1H", 0.2645)])
def test_a_field_map_is_scaled_to_sodium(nucleus, scale):
    mapped = run_of(fieldmap=RAW / "map.nii.gz", fieldmap_nucleus=nucleus)
    source = plan(mapped).source
    assert source["fieldmap_file"] == "/data/raw/map.nii.gz"
    assert source["fieldmap_scale"] == pytest.approx(scale, abs=1e-4)


def test_an_image_brings_the_filter_and_the_readout_of_its_sidecar():
    told = replace(
        PROTOCOL, kspace_filter="hamming", trajectory_type="tpi", readout_duration=0.01,
        acquisition_voxel_size=(4.0, 4.0, 5.0), receive_coils=1,
    )  # fmt: skip
    run = run_of(source=RAW / "a_PDw.nii.gz", is_kspace=False, protocol=told,
                 phase=RAW / "a_part-phase_PDw.nii.gz")  # fmt: skip
    source = plan(run).source
    assert source == {
        "image_file": "/data/raw/a_PDw.nii.gz", "phase_file": "/data/raw/a_part-phase_PDw.nii.gz",
        "trajectory_type": "tpi", "readout_duration": 0.01, "kspace_filter": "hamming",
        "nominal_voxel": [4.0, 4.0, 5.0], "coils": 1, "echo_time": PROTOCOL.echo_time,
    }  # fmt: skip


@pytest.mark.parametrize("is_kspace", [True, False])
def test_a_given_kernel_width_reaches_the_source(is_kspace):
    settings = replace(SETTINGS, psf_fwhm=(6.0, 6.0, 7.0))
    assert plan(run_of(is_kspace=is_kspace), settings).source["psf_fwhm"] == [6.0, 6.0, 7.0]


@pytest.mark.parametrize(
    ("found", "ports"),
    [
        ({"receive_array": (Path("/a"),), "receive_volume": (Path("/v"),)},
         {"array_files": ["/a"], "volume_files": ["/v"]}),
        ({"receive_array": (Path("/a"),), "receive_map": Path("/m")}, {"map_file": "/m"}),
        ({"receive_array": (Path("/a"),)}, {}),
        ({}, {}),
    ],
)  # fmt: skip
def test_the_pair_wins_over_the_map_and_half_a_pair_is_none(found, ports):
    assert plan(run_of(**found)).receive == ports


def test_a_users_transform_is_taken():
    assert plan(run_of(sodium_to_anat=Path("/x.txt"))).given_xfm == "/x.txt"
    assert plan(run_of()).given_xfm == ""


def test_draws_and_their_seed_reach_the_plan():
    planned = plan(run_of(), replace(SETTINGS, monte_carlo=200, random_seed=5))
    assert planned.uncertainty == {"monte_carlo": 200, "random_seed": 5}


@pytest.mark.parametrize("method", ["auto", "header", "synthetic", "mi", "coil"])
def test_the_way_to_register_reaches_the_plan(method):
    settings = replace(SETTINGS, na2anat_init=method, na2anat_dof=12, random_seed=5)
    planned = plan(run_of(coil_image=Path("/gre.nii.gz")), settings)
    chosen = {"method": method, "dof": 12, "random_seed": 5}
    through = {"coil_file": "/gre.nii.gz"} if method in ("auto", "coil") else {}
    assert planned.registration == {**chosen, **through}


def test_the_coil_needs_an_image_of_it():
    with pytest.raises(UserError, match="--na2anat-init coil needs another 1H image"):
        plan(run_of(), replace(SETTINGS, na2anat_init="coil"))


def test_a_transform_that_another_choice_leaves_out_is_said():
    run = run_of(sodium_to_anat=Path("/x_xfm.txt"))
    assert "not used" not in warnings_of(plan(run))
    left_out = plan(run, replace(SETTINGS, na2anat_init="mi"))
    assert "x_xfm.txt: not used, --na2anat-init is mi" in warnings_of(left_out)


def test_every_port_that_is_saved_has_a_path_in_the_output():
    outputs = plan(run_of(run="2")).outputs
    assert set(outputs) == (set(SODIUM_FILES) - NOT_SAVED) | {"qc"}
    assert len(set(outputs.values())) == len(outputs)
    assert all(path.startswith("/data/out/sub-01/anat/sub-01_acq-23Na") for path in
               outputs.values())  # fmt: skip
    assert all("run-2" in path for path in outputs.values())


def test_the_names_are_those_of_the_contract():
    outputs = {k: Path(v).name for k, v in plan(run_of()).outputs.items()}
    assert outputs["image_file"] == "sub-01_acq-23Na_desc-preproc_PDw.nii.gz"
    assert outputs["noise_file"] == "sub-01_acq-23Na_stat-noise_desc-preproc_PDw.nii.gz"
    assert outputs["corrected_file"] == "sub-01_acq-23Na_desc-corrected_TSCmap.nii.gz"
    assert outputs["anat_apparent_file"] == "sub-01_acq-23Na_space-T1w_desc-apparent_TSCmap.nii.gz"
    assert outputs["uncertainty_file"] == (
        "sub-01_acq-23Na_stat-uncertainty_desc-corrected_TSCmap.nii.gz"
    )
    assert outputs["table_file"] == "sub-01_acq-23Na_seg-tissue_TSC.tsv"
    assert outputs["xfm_file"] == "sub-01_acq-23Na_from-sodium_to-T1w_mode-image_xfm.txt"


def test_the_provenance_names_sources_protocol_and_seed():
    known = plan(run_of(), replace(SETTINGS, random_seed=7, sloppy=True)).provenance
    assert known["Sources"] == ["bids:raw:sourcedata/sub-01/anat/sub-01_acq-23Na_PDw.h5"]
    assert known["FlipAngle"] == pytest.approx(90.0)
    assert (known["EchoTime"], known["RepetitionTime"]) == (0.3e-3, 0.12)
    assert (known["RandomSeed"], known["Sloppy"]) == (7, True)
    assert known["SoftwareVersion"]


def test_warnings_of_the_input_reach_every_sidecar():
    planned = plan(run_of(warnings=("odd",)), anatomy=replace(ANATOMY, warnings=("no T1w",)))
    assert planned.provenance["InputWarnings"][:2] == ["no T1w", "odd"]


def test_runs_and_acquisitions_have_graphs_of_their_own():
    names = {plan(run_of(run=r, entities={"acq": a})).name for r in (None, "2") for a in
             ("23Na", "23NaHigh")}  # fmt: skip
    assert len(names) == 4


@pytest.mark.parametrize(("session", "name"), [(None, "sub_01_wf"), ("pre", "sub_01_ses_pre_wf")])
def test_the_graph_of_a_subject_is_named_after_it(session, name):
    assert workflow_name(SubjectJob("01", session, ANATOMY, ())) == name


def test_the_anatomy_is_planned_with_all_its_outputs():
    job = SubjectJob("01", "pre", replace(ANATOMY, ready={"mask": Path("/d/mask.nii.gz")}), ())
    planned = plan_anatomy(job, SETTINGS)
    assert planned.ready == {"mask": "/d/mask.nii.gz"}
    assert set(planned.outputs) <= set(ANATOMY_FILES)
    assert planned.outputs["gm_file"].endswith(
        "sub-01/ses-pre/anat/sub-01_ses-pre_label-GM_probseg.nii.gz"
    )
    assert planned.provenance["Sources"][0] == "bids:raw:sub-01/anat/sub-01_T1w.nii.gz"


def test_a_subject_without_raw_anatomy_is_planned_from_ready_files():
    ready = {"preproc": Path("/d/sub-01_desc-preproc_T1w.nii.gz")}
    planned = plan_anatomy(SubjectJob("01", None, Anatomy(None, "T1w", ready), ()), SETTINGS)
    assert planned.image == ""
    assert planned.provenance["Sources"] == ["/d/sub-01_desc-preproc_T1w.nii.gz"]


def test_linked_datasets_are_the_output_the_input_and_the_derivatives():
    settings = replace(SETTINGS, derivatives={"manual": Path("/d")})
    assert links(settings) == {"": OUT, "raw": RAW, "manual": Path("/d")}


NO_ANATOMY = Anatomy(None, "T1w")
DRAWN = {"regions": {"roi": (Path("/d/roi.nii.gz"), 2)}, **WITH_VIALS, "vial_space": "sodium"}


def test_a_run_without_anatomy_stays_in_sodium_space():
    planned = plan(run_of(**DRAWN), anatomy=NO_ANATOMY)
    assert planned.sodium_only
    assert planned.regions["region_files"] == {"roi": ("/d/roi.nii.gz", 2)}
    assert set(planned.outputs) == {*SODIUM_ONLY_FILES, "qc"}
    assert planned.outputs["table_file"].endswith("_seg-drawn_TSC.tsv")
    assert "/d/roi.nii.gz" in planned.provenance["Sources"]
    assert "concentrations are apparent" in warnings_of(planned)


def test_a_run_without_anatomy_says_what_it_cannot_do():
    planned = plan(
        run_of(**{**DRAWN, "regions": {}}), replace(SETTINGS, recon="agr"), anatomy=NO_ANATOMY
    )
    assert planned.nonlinear == {}
    assert "--recon agr needs a 1H image" in warnings_of(planned)
    assert "no region was drawn" in warnings_of(planned)


def test_a_transform_that_points_the_other_way_is_planned_as_such():
    planned = plan(run_of(sodium_to_anat=Path("/d/xfm.txt"), transform_backward=True))
    assert (planned.given_xfm, planned.given_backward) == ("/d/xfm.txt", True)


def test_transforms_of_our_template_stand_in_for_the_normalization():
    ready = {"to_MNI152NLin2009aSym": Path("/d/to.h5"), "from_MNI152NLin2009aSym": Path("/d/f.h5"),
             "to_MNI152NLin6Asym": Path("/d/6.h5"), "preproc": Path("/d/p.nii.gz")}  # fmt: skip
    found = replace(ANATOMY, ready=ready, label_tissues={1: "GM"}, sources=("from d: preproc",))
    planned = plan_anatomy(SubjectJob("01", None, found, ()), SETTINGS)
    assert sorted(planned.ready) == ["from_template", "preproc", "to_template"]
    assert set(planned.transforms) == {"MNI152NLin2009aSym", "MNI152NLin6Asym"}
    assert planned.label_tissues == {1: "GM"}
    assert planned.provenance["Sources"] == ["/d/to.h5", "/d/f.h5", "/d/p.nii.gz"]
    assert planned.provenance["AnatomyFrom"] == ["from d: preproc"]


@pytest.mark.parametrize("part", ["", "_part-mag"])
def test_inversion_images_beside_a_uniform_image_are_used(tmp_path, part):
    image = tmp_path / "sub-01_run-1_UNIT1.nii.gz"
    pair = [tmp_path / f"sub-01_run-1_inv-{n}{part}_MP2RAGE.nii.gz" for n in (1, 2)]

    def planned():
        return plan_anatomy(
            SubjectJob("01", None, Anatomy(image, "UNIT1"), ()), SETTINGS
        ).inversions

    pair[0].touch()
    assert planned() == ()  # one of them is none
    pair[1].touch()
    assert planned() == tuple(map(str, pair))


def test_the_age_of_the_table_reaches_the_plan(tmp_path):
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-01\t6\n")
    settings = replace(SETTINGS, bids_dir=tmp_path)
    assert plan_anatomy(SubjectJob("01", None, ANATOMY, ()), settings).age == 6
