"""Release folders: weights under names that carry their hash, and everything that lets a stranger check them without a network."""
