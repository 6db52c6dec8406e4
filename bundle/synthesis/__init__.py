# SPDX-License-Identifier: Apache-2.0
"""Images that are made: whole heads and retinas, painted scans, synthetic anomalies, and what scanners do to them."""
