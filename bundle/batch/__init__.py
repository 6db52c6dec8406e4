# SPDX-License-Identifier: Apache-2.0
"""Many cases, of which any may fail: the batch around the job of one case, its records and report."""
