"""Preflight: what Triton would refuse of a repository, or accept and do otherwise than meant, found without a server."""
