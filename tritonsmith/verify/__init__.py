"""Verification: does an artifact answer as its checkpoint does, and by how much may it differ?"""

from tritonsmith.verify.tolerance import TOLERANCES, Tolerance, judge

__all__ = ["TOLERANCES", "Tolerance", "judge"]
