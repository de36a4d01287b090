"""What exists: metadata, versions, aliases, lineage, artifacts, jobs. Knows no tensors, broker or tracker."""
