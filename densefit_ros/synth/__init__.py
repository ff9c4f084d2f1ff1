"""Synthetic people with exact labels: poses, clothes, textures, scenes and cameras, deterministic from a seed."""
