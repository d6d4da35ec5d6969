"""Watching the coordinator's audit log: it only grows, and holds what this hospital holds."""
