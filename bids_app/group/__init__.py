"""The cohort level: from the tables of all subjects to evidence.

:mod:`.run` tells the order; tables, covariates and the model go in, :mod:`.analyses` computes,
:mod:`.report` shows.
"""
