"""``python -m itm_fast`` is ``itm-fast``; torchrun starts it."""

import os
import sys

from itm_fast.cli.main import main

exit_code = main()
if int(os.environ.get("WORLD_SIZE", "1")) > 1:
    # DistributedDataParallel keeps gloo's threads alive behind destroy_process_group, and one that still holds a tensor
    # aborts the process while Python shuts down (pytorch/pytorch#179291): what is done is written, so leave without it.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
sys.exit(exit_code)
