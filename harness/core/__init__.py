"""Everything that needs neither torch nor ray: config, fingerprints, artifacts, rows, storage."""
