# SPDX-License-Identifier: Apache-2.0
"""From a DICOM archive and back: series come in by C-STORE, are mapped, and their results go out by C-STORE."""
