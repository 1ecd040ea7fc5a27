"""The report: one self-contained page of a release, in the order an astronomer reads."""
