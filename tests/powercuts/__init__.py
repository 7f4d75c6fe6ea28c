"""Power cuts: what a disk holds when the current fails at each write, and in the seconds after the command has ended.

``python -m tests.powercuts`` tries every write path and, as a control, writers that do not flush; a short part runs with the other tests.
"""
