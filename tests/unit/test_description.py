"""What the output says of itself, of its inputs and of the container that it was made in."""

import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest

from sodiumprep.bids_app.description import (
    container_of,
    dataset_description,
    participants_dictionary,
)
from sodiumprep.bids_app.run import write_dataset_files
from sodiumprep.bids_app.settings import Settings

DOCKERFILE = Path(__file__).parents[2] / "Dockerfile"


def dataset(folder, **entries):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset_description.json").write_text(json.dumps(entries))
    return folder


def described(tmp_path, **entries):
    raw = dataset(tmp_path / "raw", Name="r", **entries)
    return dataset_description(tmp_path / "out", {"": tmp_path / "out", "raw": raw})


def test_the_description_links_every_input(tmp_path):
    told = described(tmp_path)
    assert told["DatasetType"] == "derivative"
    assert told["DatasetLinks"] == {"raw": "../raw"}
    assert told["SourceDatasets"] == [{"URL": "../raw"}]
    made = told["GeneratedBy"][0]
    assert (made["Name"], made["Version"]) == ("sodiumprep", version("sodiumprep"))


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"DatasetDOI": "doi:10.1/a"}, {"DOI": "doi:10.1/a"}),
        ({"DatasetVersion": "1.2"}, {"Version": "1.2"}),
        ({"GeneratedBy": [{"Name": "fMRIPrep", "Version": "24"}]}, {"Version": "24"}),
        ({"GeneratedBy": "converter"}, {}),
    ],
)
def test_version_and_doi_of_an_input_are_told_where_it_states_them(tmp_path, entries, expected):
    assert described(tmp_path, **entries)["SourceDatasets"] == [{"URL": "../raw", **expected}]


def test_a_container_is_told_by_what_its_engine_leaves(tmp_path, monkeypatch):
    assert container_of({}, tmp_path) == {}
    (tmp_path / ".dockerenv").touch()
    tag = {"SODIUMPREP_CONTAINER": "sodiumprep:9"}
    assert container_of(tag, tmp_path) == {"Type": "docker", "Tag": "sodiumprep:9"}
    file = {"SINGULARITY_CONTAINER": "/a/b.sif", **tag}
    told = {"Type": "apptainer", "Tag": "sodiumprep:9", "URI": "file:///a/b.sif"}
    assert container_of(file, tmp_path) == told
    monkeypatch.setenv("APPTAINER_CONTAINER", "/a/b.sif")
    assert described(tmp_path)["GeneratedBy"][0]["Container"]["URI"] == "file:///a/b.sif"


def test_the_image_of_the_dockerfile_carries_the_version_of_the_package():
    text = DOCKERFILE.read_text()
    assert re.search(r"ARG IMAGE=sodiumprep:(\S+)", text).group(1) == version("sodiumprep")
    assert "ENV SODIUMPREP_CONTAINER=$IMAGE" in text


def test_every_column_of_the_participants_is_described(tmp_path):
    table = tmp_path / "participants.tsv"
    table.write_text("participant_id\tage\tsite\nsub-01\t30\tA\n")
    table.with_suffix(".json").write_text(
        '{"age": {"Units": "year"}, "MeasurementToolMetadata": {}}'
    )
    told = participants_dictionary(table)
    assert set(told) == {"participant_id", "age", "site", "MeasurementToolMetadata"}
    assert told["age"]["Units"] == "year"
    assert all(told[name]["Description"] for name in ("participant_id", "age", "site"))


@pytest.mark.parametrize("columns", ["participant_id\tage", None])
def test_the_participants_are_copied_with_a_dictionary_or_not_at_all(tmp_path, columns):
    raw = dataset(tmp_path / "raw", Name="r")
    if columns:
        (raw / "participants.tsv").write_text(f"{columns}\nsub-01\t3\n")
    write_dataset_files(Settings(raw, tmp_path / "out", tmp_path / "work"), ["01"])
    written = {path.name for path in (tmp_path / "out").iterdir()}
    tables = {"participants.tsv", "participants.json"} if columns else set()
    assert written == {"dataset_description.json", ".bidsignore", *tables}
