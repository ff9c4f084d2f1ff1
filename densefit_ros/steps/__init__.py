"""The steps of :mod:`densefit_ros.pipeline` that join the rooms: each a function of a few lines over frozen values."""
