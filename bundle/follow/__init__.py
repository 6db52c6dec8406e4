# SPDX-License-Identifier: Apache-2.0
"""Two scans of one person at two dates: what is new, gone, larger, smaller."""
