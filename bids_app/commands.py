"""Commands whose modules compile as they are loaded: their caches need a place before that."""

from __future__ import annotations

import os
from pathlib import Path

from sodiumprep.bids_app.caches import cache_environment


def pvc() -> int:
    """Run ``sodiumprep-pvc`` and return its exit code."""
    os.environ.update(cache_environment(os.environ, Path.cwd()))
    from sodiumprep.bids_app.pvc import main

    return main()
