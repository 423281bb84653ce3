"""Statistics of cohorts: from tables of regional values to evidence."""
