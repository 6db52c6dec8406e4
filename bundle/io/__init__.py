# SPDX-License-Identifier: Apache-2.0
"""Files: readers and writers of volumes, pictures and DICOM."""
