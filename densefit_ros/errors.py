"""Every error that DenseFit raises on purpose.

A message says what was expected, what came, and the likely cause, in one line.
"""


class DensefitError(Exception):
    """Base of all errors raised on purpose by this package."""


class ConfigError(DensefitError):
    """A configuration value is unknown, out of range or of the wrong type."""


class AssetError(DensefitError):
    """A file (body model, weights, image, dataset) is missing, damaged, hostile or of another format."""


class BackendUnavailable(DensefitError):
    """A backend asked for by name cannot run here.  The message carries the install hint."""


class DeviceLost(DensefitError):
    """The GPU answers nothing any more, as after an illegal access or when it fell off the bus: only a new process can use it."""


class ShapeError(DensefitError):
    """An array has another shape, dtype or range than the function documents."""


class CameraError(DensefitError):
    """Camera intrinsics cannot describe a pinhole camera (all zero, negative focal length, NaN)."""


class ImageError(DensefitError):
    """An image message or file is empty, truncated, damaged or in an encoding that carries no picture."""


class MessageError(DensefitError):
    """A message of another program (boxes, keypoints, first estimates) does not say what its type promises."""
