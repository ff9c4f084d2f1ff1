"""``python -m densefit_ros.cli``."""

import sys

from . import main

sys.exit(main())
