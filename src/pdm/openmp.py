"""Keep OpenMP's threads from spinning at barriers while another process wants the core.

With two busy neighbours on two cores a guided step of a batch of 8 takes several times longer where they spin
(`busy.csv`, notebook 10). libgomp reads the setting when it is loaded, with torch; what the user has set stays.
"""

import os
import sys

SPINS = "1000"  # GNU libgomp: rounds of a busy wait before a thread sleeps

if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
