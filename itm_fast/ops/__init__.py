"""The operators, one file each; their public functions are names of `itm_fast`."""
