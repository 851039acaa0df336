"""Tests of the build: what it does again and what not, and what the compilers made of the kernels."""
