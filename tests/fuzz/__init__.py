"""Fuzzing as code: mutators that know the containers, one target for each, and one oracle for all. See README.md."""
