"""``python -m lrp_fx``: the command line."""

from __future__ import annotations

from lrp_fx.cli.main import main

if __name__ == "__main__":
    main()
