# SPDX-License-Identifier: Apache-2.0
"""Old name of ``flipmap choose-percentile``."""

import sys

from bundle.cli import main

if __name__ == "__main__":
    sys.exit(main(["choose-percentile", *sys.argv[1:]]))
