"""One module for each technology that fulfils a port of the kernel."""
