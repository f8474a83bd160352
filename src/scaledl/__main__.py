"""`python -m scaledl`: so the ranks of `trainer.devices=N` start, under the name of the command that starts them."""

import os
import sys

from scaledl.cli import main

if __name__ == "__main__":
    sys.argv[0] = os.environ.pop("SCALEDL_PROGRAM", sys.argv[0])
    sys.exit(main())
