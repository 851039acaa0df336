"""From a spec to C++: which kernels exist, their files, and the table they are selected from."""
