"""Measurements, one file each, whose first lines say what is measured, in which unit and which way is better."""
