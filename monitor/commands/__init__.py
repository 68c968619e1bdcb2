"""Groups of commands and their bodies, one file each; `monitor.cli` registers them."""
