"""Task metrics and how answers are read out of a model's outputs."""
