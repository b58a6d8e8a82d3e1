"""Number of tries of the attacks in tests/faults: CROSSMODAL_KD_ATTACKS times the default."""

import os

SCALE = int(os.environ.get("CROSSMODAL_KD_ATTACKS", "1"))
