"""How long a test waits for a process that hangs; never a measure of speed, a busy machine is only slow."""

HANG_SECONDS = 3600
