"""What exporting raises: always one line that names the file, the output or the check at fault."""

from __future__ import annotations


class ExportError(Exception):
    """The run can't become a bundle, or the bundle would not answer as the network does."""
