# SPDX-License-Identifier: Apache-2.0
"""Methods, a module each, all of them MONAI inferers."""
