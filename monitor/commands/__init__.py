"""Groups of commands, one file each; `monitor.cli` registers them."""
