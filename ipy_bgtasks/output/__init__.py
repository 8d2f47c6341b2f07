"""Whose output is this: what a job writes is recorded in its log and shown in its own place."""
