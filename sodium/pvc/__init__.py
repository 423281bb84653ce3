"""Partial-volume correction of any emission-like image: sodium, or PET.

``shown`` holds the regions and what an image shows of them, ``reduced`` the same for an image
whose grid is finer than what it resolves. ``regional`` gives one value for each region,
``voxelwise`` and ``local`` maps by the regions, ``deconvolution`` maps without regions,
``kspace`` regional values from raw data. ``propagation`` tells what the noise becomes,
``sensitivity`` what changes the values. ``methods`` has them all by their names,
``assessment`` with noise and changes, ``fine`` their maps at the resolution of the anatomy.
``parcels`` divides tissues among the labels of an atlas, ``parcel_signals`` has what changes the
signals of these, ``parcel_rows`` the rows of a table that are made of them.
"""

METHODS = {  # by the names of options and tables
    "gtm": "geometric transfer matrix",
    "labbe": "weighted least squares",
    "rbv": "region-based voxelwise",
    "iy": "iterative Yang",
    "mtc": "multi-target correction",
    "mg": "Müller-Gärtner with CSF and background",
    "regression": "local regression",
    "rl": "Richardson-Lucy",
    "vc": "reblurred Van Cittert",
    "kspace": "regression in k-space, from raw data",
}
MAPS = ("rbv", "iy", "mtc", "mg", "regression", "rl", "vc")  # of these, those that make a map
