"""The input pipeline: batches, caching, augmentation."""
