"""What Linux, macOS and Windows do in different ways, one module for each kind of thing.

What is said of Windows and macOS has been type-checked and simulated, not run there.
"""
