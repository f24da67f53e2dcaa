"""Random use of a real app under random faults of a real server, beside a model of what must hold.

`python -m tests.soak --seconds 600 --seed 1`, or `make soak`.
"""
