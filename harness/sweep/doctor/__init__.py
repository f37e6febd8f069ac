"""Checks this machine or a running cluster for problems: facts about every machine, findings, remedies."""
