"""The store under faults, on real server processes: `make faults`."""
