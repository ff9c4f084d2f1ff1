"""The steady frame on one device: one upload, one queue of kernels and networks, one download.  See docs/GPU.md."""
