"""Files in, one call, files out: the Nipype interfaces.

No physics here: an interface loads, calls one kernel of ``sodium`` (or ANTs) and saves.
"""
