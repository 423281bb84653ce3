"""From what was found and what the user wants to plans that graphs are built from.

:mod:`.anatomy` and :mod:`.reference` plan what all runs of a subject share, :mod:`.sodium` a run:
:mod:`.inputs` what it reads, :mod:`.position` where it lies, :mod:`.calibration` what calibrates
it, :mod:`.outputs` where it is saved.
"""
