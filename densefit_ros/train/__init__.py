"""Training of the two networks on synthetic people, and their export to ONNX."""
