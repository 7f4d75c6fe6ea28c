"""Tests; the parts that several of them share are plain modules here."""
