# SPDX-License-Identifier: Apache-2.0
"""The protocol of the evaluation, its calibrations, tables and figures."""
