"""A finished training run becomes a bundle: merge → graph → precision → parity → bundle. Imports nothing from monitor."""
