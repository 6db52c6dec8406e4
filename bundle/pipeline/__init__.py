# SPDX-License-Identifier: Apache-2.0
"""One case from a scan to its map: the job of a config, and what MONAI runs it with."""
