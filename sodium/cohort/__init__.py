"""The statistics of cohorts: tables of regional values in, evidence out.

Nothing in here knows a file; what a table must hold is said in :mod:`.values`.
"""
