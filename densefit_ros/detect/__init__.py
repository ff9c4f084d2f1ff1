"""Finding people in the full image."""
