"""Tables of many subjects become one, in portions, and no digit is lost."""

import polars as pl
import pytest

from sodiumprep.bids_app.group import tables
from sodiumprep.bids_app.group.tables import as_pandas, gather_tables, read_text_table
from sodiumprep.bids_app.metadata import UserError
from sodiumprep.bids_app.names import DerivativeNames

HEAD = ("index", "name", "pvc", "desc", "mean", "uncertainty", "flag")
ROW = ("1", "GM", "gtm", "corrected", "42.125", "n/a", "n/a")


def write(out_dir, label, *rows, head=HEAD, session=None):
    path = DerivativeNames(out_dir, label, session=session).tsc_table()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join("\t".join(cells) for cells in (head, *rows)) + "\n")
    return path


def gather(out_dir, **people):
    known = pl.DataFrame(
        people or {"participant_id": []}, schema_overrides={"participant_id": pl.String}
    )
    return gather_tables(out_dir, known, out_dir / "all.tsv", out_dir / "all.parquet")


@pytest.fixture
def small_portions(monkeypatch):
    monkeypatch.setattr(tables, "PORTION", 2)


@pytest.mark.usefixtures("small_portions")
def test_portions_do_not_show(tmp_path):
    for number in range(5):
        write(tmp_path, f"0{number}", ROW)
    found = gather(tmp_path)
    assert found.rows == 5
    lines = (tmp_path / "all.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines[1:]] == [f"sub-0{k}" for k in range(5)]
    assert len(list(tmp_path.glob("*"))) == 5 + 2


@pytest.mark.usefixtures("small_portions")
def test_columns_of_some_tables_are_unknown_in_the_others(tmp_path):
    for label in ("01", "02"):
        write(tmp_path, label, ROW)
    write(tmp_path, "03", (*ROW, "GM"), head=(*HEAD, "tissue"))
    gather(tmp_path)
    cells = [line.split("\t")[-1] for line in (tmp_path / "all.tsv").read_text().splitlines()]
    assert cells == ["tissue", "n/a", "n/a", "GM"]


def test_numbers_are_text_as_they_stand_in_one_file_and_numbers_in_the_other(tmp_path):
    write(tmp_path, "01", ("1", "GM", "gtm", "corrected", "42.1250", "1e-1", "n/a"))
    found = gather(tmp_path, participant_id=["sub-01"], age=["34"])
    assert "\t42.1250\t1e-1\tn/a\t34\n" in (tmp_path / "all.tsv").read_text()
    row = found.scan().collect().row(0, named=True)
    assert (row["index"], row["mean"], row["uncertainty"]) == (1, 42.125, 0.1)
    assert (row["flag"], row["session"], row["age"]) == (None, "n/a", "34")


def test_two_rows_for_one_value_are_refused(tmp_path):
    write(tmp_path, "01", ROW, ROW)
    with pytest.raises(UserError, match="two rows for participant_id sub-01, .*name GM, pvc gtm"):
        gather(tmp_path)


def test_regions_of_one_name_are_refused_whatever_their_numbers(tmp_path):
    write(tmp_path, "01", ROW, ("9", *ROW[1:]))
    with pytest.raises(UserError, match="two rows for participant_id sub-01, .*name GM, pvc gtm"):
        gather(tmp_path)


def test_tables_without_rows_are_no_results(tmp_path):
    write(tmp_path, "01")
    with pytest.raises(UserError, match="holds no results"):
        gather(tmp_path)


def test_a_table_that_is_none_is_named(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(b"a\tb\n1\t2\t3\t4\n")
    with pytest.raises(UserError, match=r"a\.tsv: cannot be read as a table"):
        read_text_table(path)


def test_quotes_and_accents_are_text_like_any_other(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes('\ufeffname\tb\n"M\u00fcller\t 2 \n'.encode())
    assert read_text_table(path).rows() == [('"M\u00fcller', "2")]


def test_a_folder_is_left_as_it_was_when_gathering_fails(tmp_path):
    write(tmp_path, "01", ROW)
    (tmp_path / "sub-02" / "anat").mkdir(parents=True)
    (tmp_path / "sub-02" / "anat" / "sub-02_acq-23Na_seg-tissue_TSC.tsv").write_bytes(b"a\n1\t2\n")
    with pytest.raises(UserError, match="sub-02"):
        gather(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"sub-01", "sub-02"}


def test_equal_labels_of_a_table_are_one_object():
    texts = ["".join(["n", "/a"]) for _ in range(3)]  # objects of their own
    table = as_pandas(pl.DataFrame({"run": texts, "session": texts, "ok": [True, False, None]}))
    assert len({id(cell) for column in ("run", "session") for cell in table[column]}) == 1
    assert table["ok"].tolist() == [True, False, None]
