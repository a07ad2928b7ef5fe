"""Import of torch modules: found and made, exported, their channels found, their stages named."""
