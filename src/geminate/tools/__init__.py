"""Tools around the engine: exactness, benchmarks, evaluation, quantization, training."""
