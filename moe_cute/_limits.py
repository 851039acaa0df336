"""What `explain` takes of a GPU that may not be here; without torch, so that the command line can say it too."""

FIRST_ARCHITECTURE = 80
LAST_ARCHITECTURE = 999
MOST_MULTIPROCESSORS = 1 << 16
MOST_L2_MIB = 1 << 20
H100_MULTIPROCESSORS = 132  # and an H200's
H100_L2_MIB = 50
MOST_ELEMENTS = (1 << 63) - 1  # of a tensor
