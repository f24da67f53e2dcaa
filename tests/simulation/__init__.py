"""Simulated browsers on a real app and the real store, in simulated time.

- `scheduler` runs events and handlers one at a time, in an order that only the seed decides.
- `site` is the app under test; its clock, its random numbers and its store calls are simulated.
- `browser` is a browser with its cookie jar, a user who works with it, and a thief.
- `observer` knows what the users did. It says what must follow and counts what does not.
- `scenarios` are the kinds of lives, and the laws that each of them must keep.

`python -m tests.simulation` runs thousands of lives and prints a table of figures.
"""
