"""Our own kernels in C, built when the package is installed; without them everything works, only slower."""
