"""Addresses of databases in files."""

import os
import re
from pathlib import Path

from image_classifier.engine.errors import UserError

SQLITE_PATH = 500  # bytes; SQLite takes 512, with the names of its temporary files


def sqlite_url(path: str) -> str:
    """Resolver for the URL of a database in a file: SQLAlchemy decodes `%` and cuts at `?`, Optuna formats braces.

    Raises:
        UserError: The path is longer than SQLite takes.
    """
    if len(os.fsencode(Path(path).absolute())) > SQLITE_PATH:
        raise UserError(f"expected a path of at most {SQLITE_PATH} bytes for a database but found {path}; move it")
    return "sqlite:///" + re.sub(r"[%?{}]", lambda found: f"%{ord(found.group()):02X}", path)
