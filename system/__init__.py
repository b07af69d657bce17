"""TensorFlow on a prepared device, flags, signals, errors, screen. Knows no other package."""
