"""Runs Triton on a model repository, embedded or in the NGC container, and knows whether it really answers."""
