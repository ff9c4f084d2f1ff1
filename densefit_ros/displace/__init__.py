"""From an image and a rendering to 2D displacements, and from those to correspondences of the surface."""
