"""Measures the package against Flask's signed cookie and other session extensions: `make bench`.

`cases` says what is measured and `contestants` has the apps. Each app runs in a process of its own
(`worker`), which calls it through WSGI. `timing` lets these processes take turns.
"""
