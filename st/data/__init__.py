"""Images: prepared data sets and where they come from, batches on the device, augmentation."""
