# SPDX-License-Identifier: Apache-2.0
"""Old name of ``flipmap calibrate``."""

import sys

from bundle.cli import main

if __name__ == "__main__":
    sys.exit(main(["calibrate", *sys.argv[1:]]))
