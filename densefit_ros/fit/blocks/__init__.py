"""Residual blocks: one small file each, residual and analytic Jacobian, written once for CPU and CUDA."""
