"""What this machine computes fast and exactly: dtypes, attention, copies to a device, process groups."""
