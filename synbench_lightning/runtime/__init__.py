"""Running an encoder inside training: modules, devices, data loaders, processes."""
