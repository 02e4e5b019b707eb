"""Tritonsmith: from a transformer checkpoint to a verified, versioned Triton model repository."""

__version__ = "0.1.0"
