"""Faults against real programs: kills, power cuts, full disks, broken networks.

``python -m tests.chaos`` runs the long versions; the test modules here are the short ones. Each
module in ``rows`` is one row of the table in docs/reliability.md.
"""
