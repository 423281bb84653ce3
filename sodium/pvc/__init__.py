"""Partial-volume correction of any emission-like image: sodium, or PET.

``shown`` holds the regions and what an image shows of them, ``reduced`` the same for an image
whose grid is finer than what it resolves. ``regional`` gives one value for each region,
``voxelwise`` and ``local`` maps by the regions, ``deconvolution`` maps without regions,
``kspace`` regional values from raw data. ``sensitivity`` tells what changes the values.
"""

METHODS = {  # by the names of options and tables
    "gtm": "geometric transfer matrix",
    "labbe": "weighted least squares",
}
