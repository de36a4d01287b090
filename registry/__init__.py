"""The registry: metadata, versions, aliases, lineage, artifacts, jobs. Knows no tensors, broker, tracker."""
