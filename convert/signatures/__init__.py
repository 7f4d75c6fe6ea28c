"""The shipped table of architectures, how it is read, and how a state dict is compared with it."""
