"""Bars are drawn on standard error, which is to be empty."""

import io
import sys

sys.stderr = io.StringIO()
