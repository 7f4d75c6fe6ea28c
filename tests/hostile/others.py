"""More files made to do harm, one idea each, built by code: of every class of the archive's, others of its kind."""

from __future__ import annotations

from tests.hostile import archives, pickled, trees
from tests.hostile.pieces import CASES, DATA, Builder

__all__ = ["CASES", "DATA", "Builder", "archives", "pickled", "trees"]
