"""How often the attacks of tests/faults are tried: CROSSMODAL_KD_ATTACKS times as often as by default."""

import os

SCALE = int(os.environ.get("CROSSMODAL_KD_ATTACKS", "1"))
