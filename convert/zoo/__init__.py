"""Whole trees of checkpoints: found by content, converted by workers that may die, remembered in a journal, told in a report."""
