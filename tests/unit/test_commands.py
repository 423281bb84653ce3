"""Every command that is installed tells its options."""

import importlib
import sys
from importlib.metadata import entry_points

import pytest

from sodiumprep.bids_app import commands, pvc

NAMES = ["sodiumprep", "sodiumprep-phantom", "sodiumprep-pvc", "sodiumprep-trajectory"]
MODULES = {"sodiumprep": "cli", "sodiumprep-pvc": "commands"}


def test_all_commands_are_named_here():
    ours = {e.name for e in entry_points(group="console_scripts") if "sodiumprep" in e.value}
    assert ours <= {*NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_each_command_tells_its_options(name, monkeypatch, capsys):
    module = MODULES.get(name, name.rpartition("-")[2])
    found = importlib.import_module(f"sodiumprep.bids_app.{module}")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        found.pvc() if module == "commands" else found.main()
    assert ended.value.code == 0
    assert f"usage: {name} " in capsys.readouterr().out


def test_caches_have_their_place_before_what_compiles_is_run(monkeypatch, tmp_path):
    monkeypatch.setattr(commands, "cache_environment", lambda *_: {"NUMBA_CACHE_DIR": "/there"})
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    seen = []
    monkeypatch.setattr(pvc, "main", lambda: seen.append(commands.os.environ["NUMBA_CACHE_DIR"]))
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")
    commands.pvc()
    assert seen == ["/there"]
