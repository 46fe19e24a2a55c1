"""What `tfrecords_tools/clean.py` measures of labels and pictures."""
