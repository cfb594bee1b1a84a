"""The graph over arrays: built, linked, walked, coded and calibrated. It knows blocks by a protocol, and no storage."""
