"""Pictures of results; each function needs the extra `viz`."""
