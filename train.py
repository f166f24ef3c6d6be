"""For `accelerate launch train.py RECIPE [--section.key value] [--resume]`: the same as `msa train`."""

import sys

from medsam_adapter.cli.main import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
