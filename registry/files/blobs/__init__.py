"""The bytes of artifacts: blobs named by digest, in a local folder or beneath an fsspec URL."""
