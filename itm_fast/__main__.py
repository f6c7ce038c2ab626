"""``python -m itm_fast`` is ``itm-fast``."""

import sys

from itm_fast.cli.main import main

sys.exit(main())
