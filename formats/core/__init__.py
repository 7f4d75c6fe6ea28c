"""The nouns that every format shares; nothing here knows a format by name."""
