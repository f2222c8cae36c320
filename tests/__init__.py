"""The tests, in the folders of the package; and where they find what is tested."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
STUDIES = ROOT / "examples" / "studies"

# The scripts of the examples are imported as a user runs them: from their own folders.
sys.path[:0] = [str(STUDIES), str(ROOT / "examples")]
