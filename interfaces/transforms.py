"""ITK's transform files: what kind they hold, and the way back."""

from __future__ import annotations

import re
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

from sodiumprep.interfaces.registration import read_transform, write_transform

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
    try:
        kinds = {".h5": _kinds_of_h5, ".mat": _kinds_of_mat}.get(path.suffix, _kinds_of_text)(path)
    except (OSError, ValueError, KeyError, TypeError, MatReadError) as error:
        raise ValueError(f"{path}: not an ITK transform ({error})") from None
    kinds = [kind for kind in kinds if not kind.startswith("Composite")]
    if not kinds:
        raise ValueError(f"{path}: not an ITK transform (no type in it)")
    return kinds


def _kinds_of_h5(path: Path) -> list[str]:
    with h5py.File(path) as file:
        entries = file["TransformGroup"].values()
        return [entry["TransformType"][0].decode() for entry in entries if len(entry)]


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
