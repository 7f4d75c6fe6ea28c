"""Measurements: the command against cp and against torch, in the same run."""
