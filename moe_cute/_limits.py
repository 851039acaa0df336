"""What `explain` takes of a GPU that may not be here; without torch, so that the command line can say it too."""

FIRST_ARCHITECTURE = 80
LAST_ARCHITECTURE = 999
MOST_MULTIPROCESSORS = 1 << 16
MOST_L2_MIB = 1 << 20
MOST_ELEMENTS = (1 << 63) - 1  # of a tensor
