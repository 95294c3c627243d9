"""C++ sources of this package as loaded libraries: how they are compiled and kept, and the headers that they share."""
