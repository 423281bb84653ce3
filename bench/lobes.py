"""Compare the built-in lobes with the AAL atlas of mricron-data: ``python bench/lobes.py``.

AAL (Tzourio-Mazoyer 2002, doi:10.1006/nimg.2001.0978) labels grey matter and what lies around it
of one brain in MNI space; what it does not label is not compared.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np

from sodiumprep.sodium.lobes import LOBES, lobe_labels

AAL = Path("/usr/share/mricron/templates/aal.nii.gz")
PARTS = {  # by AAL's numbers on the left; those on the right follow each
    "frontal lobe": [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 31],
    "parietal lobe": [57, 59, 61, 63, 65, 67, 69],
    "temporal lobe": [37, 39, 41, 55, 79, 81, 83, 85, 87, 89],
    "occipital lobe": [43, 45, 47, 49, 51, 53],
    "cerebellum": list(range(91, 109, 2)),
    "thalamus": [77],
    "caudate": [71],
    "putamen": [73],
    "pallidum": [75],
}


def main() -> int:
    """Print the Dice coefficient of each part, and where its voxels went."""
    if not AAL.is_file():
        print(f"{AAL} is not there (apt-get install mricron-data): nothing compared")
        return 0
    image = nib.load(AAL)
    aal = np.asarray(image.dataobj).astype(int)
    found = lobe_labels(aal.shape, image.affine)
    for part, numbers in PARTS.items():
        for right, side in enumerate(("left", "right")):
            theirs = np.isin(aal, np.array(numbers) + right)
            (label,) = (n for n, name in LOBES.items() if name == f"{side} {part}")
            ours = (found == label) & (aal > 0)
            dice = 2 * np.sum(theirs & ours) / (theirs.sum() + ours.sum())
            held, counts = np.unique(found[theirs], return_counts=True)
            others = sorted(zip(counts / theirs.sum(), held, strict=True), reverse=True)[:3]
            where = ", ".join(f"{LOBES[n]} {share:.0%}" for share, n in others)
            print(f"{side + ' ' + part:22} Dice {dice:.2f}   of AAL's in: {where}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
