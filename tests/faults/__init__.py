"""Faults on purpose: kills, power cuts, damaged bytes and failing calls, each with a check of what is left."""
