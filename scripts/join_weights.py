# SPDX-License-Identifier: Apache-2.0
"""Old name of ``flipmap join-weights``."""

import sys

from bundle.cli import main

if __name__ == "__main__":
    sys.exit(main(["join-weights", *sys.argv[1:]]))
