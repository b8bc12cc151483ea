"""`python -m phnet_monai` is `phnet`."""

from __future__ import annotations

import os
import sys

from phnet_monai.cli.main import INTERRUPTED, main

if __name__ == "__main__":
    code = main()
    if code == INTERRUPTED:
        # Python remembers a Ctrl-C that passed through `eval`, as configs use it, and would end by the signal
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
