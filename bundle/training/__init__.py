# SPDX-License-Identifier: Apache-2.0
"""What the recipes of the trainings are made of."""
