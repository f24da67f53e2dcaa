"""Clean environments: several Pythons, with the lowest and the newest versions."""
