"""Fit a body to the evidence of one image.  See docs/FIT.md."""
