# SPDX-License-Identifier: Apache-2.0
"""MONAI transforms: preparation of scans, augmentation, synthetic anomalies."""
