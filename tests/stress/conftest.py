"""Scripts that take long are run by hand: only test_*.py is collected here."""

collect_ignore = [
    "big_dataset.py",
    "hundred.py",
    "kill_resume.py",
    "processes.py",
    "scheduling.py",
]
