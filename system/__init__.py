"""TensorFlow on a prepared device, kernels, signals, errors, screen. Knows no room above it."""
