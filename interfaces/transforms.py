"""ITK's transform files: what kind they hold, and the way back."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
)
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from sodiumprep.interfaces.files import MIB, check_file
from sodiumprep.interfaces.registration import read_transform, write_transform

MOST_TEXT = 16 * MIB  # of a matrix a few hundred bytes; with room for a grid of splines
MOST_TRANSFORMS = 100
UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError,
    MemoryError, OverflowError, NotImplementedError, struct.error, zlib.error, MatReadError,
)  # fmt: skip
_TEXT_KIND = re.compile(r"^Transform:\s*(\S+)", re.MULTILINE)


def transform_kinds(path: Path) -> list[str]:
    """Return the ITK types of a file's transforms, the composite itself left out.

    Parameters
    ----------
    path
        ITK text, ``.mat`` or ``.h5``.

    Returns
    -------
    kinds
        Such as ``AffineTransform_double_3_3``, at least one.

    Raises
    ------
    ValueError
        If the file is no transform of ITK's.
    """
    check_file(path, None if path.suffix == ".h5" else MOST_TEXT)
    try:
        kinds = {".h5": _kinds_of_h5, ".mat": _kinds_of_mat}.get(path.suffix, _kinds_of_text)(path)
    except UNREADABLE as error:
        raise ValueError(f"{path}: not an ITK transform ({_reason(error)})") from None
    kinds = [kind for kind in kinds if not kind.startswith("Composite")]
    if not kinds:
        raise ValueError(f"{path}: not an ITK transform (no type in it)")
    return kinds


def _kinds_of_h5(path: Path) -> list[str]:
    with h5py.File(path) as file:
        group = file["TransformGroup"]
        if len(group) > MOST_TRANSFORMS:
            raise ValueError(f"{len(group)} transforms; accepted: up to {MOST_TRANSFORMS}")
        kinds = [entry["TransformType"] for entry in group.values() if len(entry)]
        return [kind[0].decode() for kind in kinds if kind.size == 1]


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _kinds_of_mat(path: Path) -> list[str]:
    # ITK names the matrix after the type, the other variable is "fixed"
    return [name for name in loadmat(path) if "Transform" in name]


def _kinds_of_text(path: Path) -> list[str]:
    return _TEXT_KIND.findall(path.read_text(encoding="utf-8"))


class _InvertInput(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="linear ITK transform [mm, LPS]")


class _InvertOutput(TraitedSpec):
    out_file = File(exists=True, desc="its inverse, ITK text [mm, LPS]")


class InvertTransform(SimpleInterface):
    """Turn a linear transform round."""

    input_spec = _InvertInput
    output_spec = _InvertOutput

    def _run_interface(self, runtime: Any) -> Any:
        matrix = read_transform(self.inputs.in_file)
        out_file = Path(runtime.cwd) / "inverse.txt"
        self._results["out_file"] = write_transform(out_file, np.linalg.inv(matrix))
        return runtime
