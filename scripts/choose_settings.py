# SPDX-License-Identifier: Apache-2.0
"""Old name of ``flipmap choose-settings``."""

import sys

from bundle.cli import main

if __name__ == "__main__":
    sys.exit(main(["choose-settings", *sys.argv[1:]]))
