"""A Llama's pass for CPUs in C++: one call instead of some hundred operators. See docs/native.md."""
