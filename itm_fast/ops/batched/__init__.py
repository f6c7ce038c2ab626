"""Operators without kernels of their own on a device: torch's batched products there, in blocks that shapes decide.

Nothing loops over captions or images, and nothing waits for the host, which only how many words given pairs have is
read on: counts are read on the device, where one that is out of range gives NaN. Between forward and backward pass
nothing is kept but inputs and results; blocks are made again.
"""
