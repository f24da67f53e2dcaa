"""Helpers that several test files use. No test file imports another test file.

Fixtures are in the files named `conftest.py`.
"""
