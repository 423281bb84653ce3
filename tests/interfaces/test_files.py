"""Files that are there whole or not at all."""

import ast
import errno
import os
import re
import subprocess
import sys
import time
from multiprocessing import Process
from pathlib import Path

import pytest

from sodiumprep.interfaces import files
from sodiumprep.interfaces.files import (
    WriteError,
    copy_file,
    partial_path,
    remove_partials,
    write_bytes,
    write_text,
    written,
)

ROOT = Path(__file__).parents[2]
# methods and functions that write a file under the name they are given
WRITERS = {".write_text", ".write_bytes", ".to_csv", ".savefig", ".copyfile", ".copy2", ".savetxt",
           "save_image", "write_transform", ".to_filename"}  # fmt: skip
GROWING = ("partial", "buffer", "runtime.cwd")  # what they may be given
OTHER_PLACES = {  # write raw data, what another command makes, jobs, a switch of the kernel
    "phantom_files.py", "phantom_results.py", "phantom_tables.py", "pvc.py", "clusters.py",
    "monitor.py",
}  # fmt: skip


def fail_half_way(path, error):
    with written(path) as partial:
        partial.write_text("half")
        raise error


@pytest.mark.parametrize("held", [None, "old"])
def test_a_writing_that_fails_leaves_what_was_there(tmp_path, held):
    path = tmp_path / "a" / "b.txt"
    if held:
        write_text(path, held)
    with pytest.raises(KeyError):
        fail_half_way(path, KeyError())
    assert (path.read_text() if held else not path.exists()) == (held or True)
    assert [p.name for p in path.parent.iterdir()] == (["b.txt"] if held else [])


def test_text_bytes_and_copies_arrive_as_they_are(tmp_path):
    write_text(tmp_path / "a", "µ\n")
    write_bytes(tmp_path / "b", b"\x00\xff")
    copy_file(tmp_path / "a", tmp_path / "new" / "c")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "µ\n"
    assert (tmp_path / "b").read_bytes() == b"\x00\xff"
    assert (tmp_path / "new" / "c").read_bytes() == (tmp_path / "a").read_bytes()


@pytest.mark.parametrize("name", ["sub-01_TSC.tsv", "sub-01_T1w.nii.gz", "sub-01.html"])
def test_a_growing_file_keeps_its_extension_and_no_pattern_of_results_finds_it(tmp_path, name):
    stem, dot, extension = name.partition(".")
    partial = partial_path(tmp_path / name)
    assert partial.name.endswith(dot + extension)
    assert partial.parent == tmp_path
    partial.write_text("half")
    assert not list(tmp_path.glob(f"*{stem}{dot}{extension}"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_takes_no_more_is_told_with_the_name_of_the_file(tmp_path, number):
    path = tmp_path / "a.txt"
    with pytest.raises(WriteError, match=f"a.txt: cannot be written: {files.REASONS[number]}"):
        fail_half_way(path, OSError(number, os.strerror(number)))
    assert not list(tmp_path.iterdir())


def test_another_failure_of_the_system_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError):
        copy_file(tmp_path / "absent", tmp_path / "a")
    unreadable = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "source"))
    with pytest.raises(PermissionError, match="source"):
        fail_half_way(tmp_path / "a", unreadable)


def test_a_file_that_may_not_grow_is_not_left_half(tmp_path):
    script = (
        "import resource, sys; from sodiumprep.interfaces.files import write_bytes;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "write_bytes(sys.argv[1], bytes(5000))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a.bin")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "WriteError" in done.stderr
    assert "a.bin: cannot be written: files of this size" in done.stderr
    assert not list(tmp_path.iterdir())


def _write_for_ever(path):
    with written(path) as partial, partial.open("w") as file:
        while True:
            print("half", file=file, flush=True)


def test_a_killed_writer_leaves_a_partial_file_that_the_next_start_removes(tmp_path):
    writer = Process(target=_write_for_ever, args=(tmp_path / "a.txt",))
    writer.start()
    while not list(tmp_path.iterdir()):
        time.sleep(0.01)
    assert remove_partials(tmp_path) == []  # it lives
    writer.kill()
    writer.join()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".a.partial-")
    assert remove_partials(tmp_path) == [left]
    assert not list(tmp_path.iterdir())


def test_partial_files_of_another_host_go_after_a_day_and_those_of_users_never(tmp_path):
    other, old = (tmp_path / f".a.partial-00000000-{n}.txt" for n in (1, 2))
    own = [tmp_path / name for name in ("a.partial-1.txt", ".partial-x.txt", ".b.partial-1-x.txt")]
    for path in (other, old, *own):
        path.write_text("half")
    os.utime(old, (0, 0))
    for path in own:
        os.utime(path, (0, 0))
    assert remove_partials(tmp_path) == [old]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"
    writers = [Process(target=write_text, args=(path, str(n) * 100_000)) for n in range(4)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert not path.exists() or len(set(path.read_text())) == 1
    assert len(path.read_text()) == 100_000
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def direct_writes(tree):
    """Return the calls that write a file under a name that is no growing file's."""
    found = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        text, function = ast.unparse(call), call.func
        is_method = isinstance(function, ast.Attribute)
        name = f".{function.attr}" if is_method else getattr(function, "id", "")
        opens = name in ("open", ".open") and re.search(r"\(.*['\"][wax][bt+]*['\"]", text)
        if (opens or name in WRITERS) and not any(word in text for word in GROWING):
            found.append(text)
    return found


@pytest.mark.parametrize(
    "line", ["path.write_text('a')", "open(path, 'w')", "path.open('ab')", "table.to_csv(path)",
             "save_image(target, values, affine)", "with h.open('x') as f: pass"],
)  # fmt: skip
def test_a_direct_write_is_found(line):
    assert len(direct_writes(ast.parse(line))) == 1
    assert not direct_writes(ast.parse("save_image(partial, values, affine)\npath.open('rb')"))


def test_the_application_writes_no_file_by_its_own_means():
    modules = [p for p in (ROOT / "bids_app").rglob("*.py") if p.name not in OTHER_PLACES]
    assert len(modules) > 40
    assert not [text for path in modules for text in direct_writes(ast.parse(path.read_text()))]


def test_no_step_that_saves_results_writes_a_file_by_its_own_means():
    """All other steps write into their own folders, which nobody reads before they end."""
    classes = [
        node
        for path in (ROOT / "interfaces").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and node.name.startswith("Save")
    ]
    assert all([ast.unparse(base) for base in node.bases] == ["Saving"] for node in classes)
    assert len(classes) >= 9
    assert not [text for node in classes for text in direct_writes(node)]
