# SPDX-License-Identifier: Apache-2.0
"""Old name of ``flipmap compare-trainings``."""

import sys

from bundle.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare-trainings", *sys.argv[1:]]))
