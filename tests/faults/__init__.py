"""Faults while writing: every write path of the command under failing system calls, signals and odd places.

``python -m tests.faults`` runs them all against the installed command and prints a table; a short part runs with the other tests.
"""
