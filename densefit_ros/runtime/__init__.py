"""Network runtimes behind one protocol: ONNX Runtime, TensorRT, torch.  Importing this loads none of them."""
