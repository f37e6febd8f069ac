"""Contract tests for parts of other packages."""
