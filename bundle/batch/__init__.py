# SPDX-License-Identifier: Apache-2.0
"""Many cases, of which any may fail: the job of one case, the batch around it, its records and report."""
