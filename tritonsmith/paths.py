"""Where things lie: the package's own data, the templates, and the cache."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ASSETS = PACKAGE / "assets"


def templates_folder() -> Path:
    """Return the folder of the Jinja templates: inside an installed package, or beside it in a checkout."""
    packaged = PACKAGE / "templates"
    return packaged if packaged.is_dir() else PACKAGE.parent / "templates"


def cache_folder() -> Path:
    """Return the cache: $TRITONSMITH_CACHE, or `tritonsmith` under $XDG_CACHE_HOME (~/.cache)."""
    own = os.environ.get("TRITONSMITH_CACHE")
    if own:
        return Path(own).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tritonsmith"
