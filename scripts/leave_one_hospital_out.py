# SPDX-License-Identifier: Apache-2.0
"""Old name of ``flipmap leave-site-out``."""

import sys

from bundle.cli import main

if __name__ == "__main__":
    sys.exit(main(["leave-site-out", *sys.argv[1:]]))
