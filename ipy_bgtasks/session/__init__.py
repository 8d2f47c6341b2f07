"""What the magics call: launching, waiting, stopping, leaving."""
