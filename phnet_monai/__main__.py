"""`python -m phnet_monai` is `phnet`."""

from __future__ import annotations

import sys

from phnet_monai.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
