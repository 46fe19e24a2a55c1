"""From rows to shards: the steps of `tfrecords_tools/write.py`."""
