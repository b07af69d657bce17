"""TensorFlow on a prepared device, signals, errors, screen. Knows no room above it."""
