"""The recipe under DeepSpeed on a CPU: accelerate starts no process group for it there, so this does.

torchrun --nproc_per_node 2 tests/support/zero_run.py <arguments of recipes/s2t_t2t.py>
"""

import runpy
import sys
from pathlib import Path

import deepspeed

RECIPE = Path(__file__).parents[2] / "recipes" / "s2t_t2t.py"

if __name__ == "__main__":
    deepspeed.init_distributed("gloo")
    sys.argv[0] = str(RECIPE)
    runpy.run_path(str(RECIPE), run_name="__main__")
