# SPDX-License-Identifier: Apache-2.0
"""``python -m flipmap``: the command."""

from bundle.cli import entry

if __name__ == "__main__":
    entry()
