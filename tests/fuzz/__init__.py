"""Files that nobody wrote: seeded mutations of real ones, read in a bounded process.

`test_fuzz.py` runs some of each target, `python -m tests.fuzz.run TARGET --count N --seed S` any number.
"""
