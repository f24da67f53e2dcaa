"""Runs other projects' test suites with KVSession as `flask.session`: `make outside`."""
