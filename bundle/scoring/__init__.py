# SPDX-License-Identifier: Apache-2.0
"""From raw scores to calibrated maps, masks and findings."""
