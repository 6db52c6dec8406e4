# SPDX-License-Identifier: Apache-2.0
"""Old name of ``flipmap benchmark``."""

import sys

from bundle.cli import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]]))
