"""Other projects' test suites, run with our session as `flask.session`: `make outside`."""
