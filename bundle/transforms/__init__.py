# SPDX-License-Identifier: Apache-2.0
"""MONAI transforms that come before a method: from the scan to the grid of the model."""
