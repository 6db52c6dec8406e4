# SPDX-License-Identifier: Apache-2.0
"""The commands of ``flipmap``, a module each.

Its docstring is the help, ``add_arguments`` says what it takes, ``run`` does it and returns an exit code, or None for
success.
"""
