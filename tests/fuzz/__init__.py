"""Fuzz targets: each is a plain function of bytes that raises if a fact does not hold.

Two programs call the same targets: the tests in this folder, with what Hypothesis makes, and
`python -m tests.fuzz` (`make fuzz`), with what Atheris finds by coverage.
"""
