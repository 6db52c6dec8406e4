# SPDX-License-Identifier: Apache-2.0
"""Old name of ``flipmap check-small-lesions``."""

import sys

from bundle.cli import main

if __name__ == "__main__":
    sys.exit(main(["check-small-lesions", *sys.argv[1:]]))
