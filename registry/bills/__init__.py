"""Bills of materials: the files, origins and licences of a record and of everything it is made from."""
