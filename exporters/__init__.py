"""From a trained model to a bundle that the service loads; imports nothing from `monitor`."""
