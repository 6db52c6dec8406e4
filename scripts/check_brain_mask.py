# SPDX-License-Identifier: Apache-2.0
"""Old name of ``flipmap check-brain-mask``."""

import sys

from bundle.cli import main

if __name__ == "__main__":
    sys.exit(main(["check-brain-mask", *sys.argv[1:]]))
