"""Says what would go wrong with a sweep here or on a running cluster: facts of every machine, findings, remedies."""
